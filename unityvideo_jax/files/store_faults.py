"""Refusals of an object store, in one line: wrong names, rights, and stores that do not answer.

The clients (s3fs, gcsfs, botocore, Google's libraries, TensorStore) raise errors of many types, of
which only the text says what happened, so the text decides.
"""

import os
import re

from unityvideo_jax.errors import UserError

URL = re.compile(r"\b(gs|s3)://[^\s\"'\\,;:]+")
# Types of errors that come from a client of a store, by the module that defines them.
CLIENTS = ("botocore", "aiobotocore", "gcsfs", "google.auth", "google.api_core", "s3fs", "aiohttp")
# Marks of TensorStore's errors about stores, which are ValueError and the like, as those of disks.
TENSORSTORE = re.compile(
    r"HTTP response code|http_response_code='|curl_code='|CURL error|retry attempts failed|"
    r'\bgs://|\bs3://|"driver":"(gcs|gcs_grpc|s3)"'
)
AGAIN = "then give the same command again, which continues from what is whole"
# How the clients write a status of HTTP; any other number may be a step or a process.
STATUS = r"(?:\(|[Cc]ode(?::? |=')|, )"
# The first that matches counts, so the more certain ones come first.
REASONS = (
    (
        r"NoSuchBucket|bucket does not exist|bucket.{0,80}(not found|does not exist)|"
        r"Invalid bucket name|InvalidBucketName",
        "no such bucket; check its name and the account's project or region, or create it",
    ),
    (
        r"NoCredentials|Unable to locate credentials|credentials were not found|Anonymous caller|"
        r"DefaultCredentialsError|CredentialRetrievalError|No valid credentials|"
        r"Could not (get|load) credentials",
        "no credentials; run `gcloud auth application-default login` for gs://, `aws configure` "
        "for s3://, or give the machine a service account or role",
    ),
    (
        r"InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|Invalid Credentials|"
        rf"UNAUTHENTICATED|Unauthorized|TokenRefused|RefreshError|{STATUS}401\b",
        "the credentials are not accepted; renew them",
    ),
    (
        r"AccessDenied|Access Denied|Forbidden|PERMISSION_DENIED|does not have storage|"
        rf"Permission.{{0,20}}denied|{STATUS}403\b",
        "access denied; ask for the right to read, write, list and delete objects there "
        "(roles/storage.objectAdmin, or s3:GetObject, PutObject, ListBucket, DeleteObject)",
    ),
    (
        r"SlowDown|Service ?Unavailable|reduce your request rate|Too ?Many ?Requests|InternalError|"
        r"Internal Server Error|backendError|UNAVAILABLE|RESOURCE_EXHAUSTED|max retries|"
        r"Max attempts|retry attempts failed: (?!CURL)|"
        rf"{STATUS}(429|500|502|503|504)\b",
        f"the store does not serve requests, also when they are repeated; wait, {AGAIN}",
    ),
    (
        r"Could not connect|Cannot connect|EndpointConnection|ConnectTimeout|ReadTimeout|timed out|"
        r"Timeout|DEADLINE_EXCEEDED|Connection (refused|reset|aborted)|Name or service not known|"
        r"Temporary failure in name resolution|Server disconnected|ConnectionClosed|CURL error",
        "the store cannot be reached; check the network and the address of the endpoint "
        f"(AWS_ENDPOINT_URL, STORAGE_EMULATOR_HOST), {AGAIN}",
    ),
)


def chain(error: BaseException) -> list[BaseException]:
    """Returns an error, its cause, the cause of that, and so on."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) and cause not in found:
        found.append(cause)
    return found


def explain(
    error: BaseException, where: str = "", folder: str | os.PathLike | None = None
) -> str | None:
    """Returns one line about a store's refusal; None if the error comes from no store.

    Args:
      error: any.
      where: the URL that was asked for, if the caller knows it; then any error is a store's.
      folder: named if the error is a store's and names no URL, as TensorStore's of s3:// do.
    """
    errors = chain(error)
    texts = [f"{type(one).__name__}: {one}" for one in errors]
    if not where:
        ours = [t for one, t in zip(errors, texts, strict=True) if _is_of_a_store(one, t)]
        if not ours:
            return None
        texts = ours
        default = "object store" if folder is None else os.fspath(folder)
        where = next((found[0] for text in texts if (found := URL.search(text))), default)
    whole = URL.sub("", " ".join(texts))
    reason = next((advice for marks, advice in REASONS if re.search(marks, whole)), None)
    return None if reason is None else f"{where}: {reason}"


def _is_of_a_store(error: BaseException, text: str) -> bool:
    if isinstance(error, UserError):
        return False
    module = type(error).__module__ or ""
    return module.startswith(CLIENTS) or bool(TENSORSTORE.search(text))
