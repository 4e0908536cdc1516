"""Charges with Python's requests, which urllib3's Retry makes patient, and tells in JSON what came of it."""

import json
import sys

import requests
import urllib3


def main():
    url, key, body, retries = sys.argv[1:]
    retry = urllib3.Retry(
        total=int(retries),
        status_forcelist=[409, 503],
        allowed_methods=["POST"],
        respect_retry_after_header=True,
        backoff_factor=0.2,
        raise_on_status=False,
    )
    with requests.Session() as session:
        session.trust_env = False
        session.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
        answer = session.post(
            url,
            data=body.encode(),
            headers={
                "Authorization": "Bearer sk_test",
                "Content-Type": "application/json",
                "Idempotency-Key": key,
            },
            timeout=50,
        )
    print(
        json.dumps(
            {
                "status": answer.status_code,
                "replayed": answer.headers.get("Idempotent-Replayed"),
                "body": answer.text,
            }
        )
    )


main()
