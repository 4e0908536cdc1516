//! What a client sees while nothing fails.

use http::StatusCode;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::{
    client::{Client, of_amount},
    program::Program,
    provider::Provider,
};

#[tokio::test]
async fn a_retry_gets_the_first_answer_byte_for_byte() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &[]).await;
    let client = Client::new(program.api());
    let request = json!({"amount": 1999, "currency": "EUR", "order": "o-1", "metadata": {"a": 1}});

    let first = client.charge("k", &request).await;
    let again = client.charge("k", &request).await;

    assert_eq!(first.status, 201);
    assert_eq!(first.replayed(), Some(false));
    let ledger = Provider::new(program.provider_url()).ledger().await;
    assert_eq!(ledger.charges.len(), 1);
    assert_eq!(ledger.calls, 1);
    let charge = first.json();
    let id = charge["id"].as_str().unwrap();
    assert!(id.starts_with("ch_"), "{id}");
    let expected = json!({
        "id": id,
        "object": "charge",
        "amount": 1999,
        "currency": "eur",
        "order": "o-1",
        "customer": null,
        "status": "succeeded",
        "provider_id": ledger.charges[0].id,
        "created": ledger.charges[0].at,
    });
    assert_eq!(charge, expected);

    assert_eq!(again.status, 201);
    assert_eq!(again.replayed(), Some(true));
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("content-type"), first.header("content-type"));
}

#[tokio::test]
async fn a_key_is_for_one_request_only() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    client.charge("k", &of_amount(100)).await;

    let other = client.charge("k", &of_amount(101)).await;

    assert_eq!(other.problem(), (422, "key-reused".into()));
    assert_eq!(
        Provider::new(program.provider_url()).ledger().await.calls,
        1
    );
}

#[tokio::test]
async fn without_one_well_formed_key_nothing_is_charged() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let request = || client.post().json(&of_amount(100));

    let missing = client.send(request()).await.unwrap();
    assert_eq!(missing.problem(), (400, "missing-key".into()));
    for key in ["", "a b", "\"open", &"k".repeat(256)] {
        let answer = client.send(request().header("idempotency-key", key)).await;
        assert_eq!(
            answer.unwrap().problem(),
            (400, "malformed-key".into()),
            "{key:?}"
        );
    }
    let two = request()
        .header("idempotency-key", "a")
        .header("idempotency-key", "b");
    assert_eq!(
        client.send(two).await.unwrap().problem(),
        (400, "malformed-key".into())
    );

    assert_eq!(
        Provider::new(program.provider_url()).ledger().await.calls,
        0
    );
}

#[tokio::test]
async fn a_key_may_be_quoted_or_bare() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    let bare = client.charge("k-1", &of_amount(100)).await;
    let quoted = client.charge("\"k-1\"", &of_amount(100)).await;

    assert_eq!(quoted.replayed(), Some(true));
    assert_eq!(quoted.body, bare.body);
}

#[tokio::test]
async fn without_credentials_only_what_is_public_answers() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    for (method, path) in [
        ("POST", "/v1/charges"),
        ("GET", "/v1/charges"),
        ("GET", "/v1/charges/ch_1"),
    ] {
        for credentials in [None, Some("Bearer "), Some("Basic Og=="), Some("sk_test")] {
            let mut request = client
                .bare(method, path)
                .header("idempotency-key", "k")
                .body(of_amount(100).to_string());
            if let Some(credentials) = credentials {
                request = request.header("authorization", credentials);
            }
            let answer = client.send(request).await.unwrap();
            assert_eq!(
                answer.problem(),
                (401, "unauthorized".into()),
                "{method} {path}"
            );
            assert!(answer.header("www-authenticate").is_some());
        }
    }
    let health = client.send(client.bare("GET", "/healthz")).await.unwrap();
    assert_eq!(
        (health.status, health.json()),
        (200, json!({"status": "ok", "breaker": "closed"}))
    );

    assert_eq!(
        client.charge("k", &of_amount(100)).await.replayed(),
        Some(false)
    );
}

#[tokio::test]
async fn an_account_sees_its_own_charges_only() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &[]).await;
    let ours = Client::new(program.api());
    let theirs = ours.with_account("sk_other");

    let mine = ours.charge("k", &of_amount(100)).await.json();
    let other = theirs.charge("k", &of_amount(100)).await;

    assert_eq!(
        other.replayed(),
        Some(false),
        "one key in two accounts is two operations"
    );
    let path = format!("/v1/charges/{}", mine["id"].as_str().unwrap());
    let shown = ours.get(&path).await;
    assert_eq!((shown.status, shown.json()), (200, mine.clone()));
    assert_eq!(
        theirs.get(&path).await.problem(),
        (404, "no-such-charge".into())
    );
    assert_eq!(
        ours.get("/v1/charges").await.json(),
        json!({"object": "list", "data": [mine], "has_more": false})
    );
    assert_eq!(
        theirs.get("/v1/charges").await.json()["data"],
        json!([other.json()])
    );
    for path in ["/v1/charges/ch_1", "/v1/charges/%00", "/v1/charges/%FF"] {
        assert_eq!(ours.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn basic_and_bearer_are_one_account() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let first = client.charge("k", &of_amount(100)).await;

    let basic = client
        .bare("POST", "/v1/charges")
        .basic_auth("sk_test", Some("ignored"))
        .header("idempotency-key", "k")
        .json(&of_amount(100));
    let again = client.send(basic).await.unwrap();

    assert_eq!(again.replayed(), Some(true));
    assert_eq!(again.body, first.body);
}

#[tokio::test]
async fn a_list_holds_the_newest_hundred() {
    let folder = tempdir().unwrap();
    for store in ["memory:", "sqlite:list.db"] {
        let program = Program::serve(folder.path(), &["--store", store]).await;
        let client = Client::new(program.api());
        let amounts = |list: &Value| -> Vec<i64> {
            let data = list["data"].as_array().unwrap();
            data.iter()
                .map(|charge| charge["amount"].as_i64().unwrap())
                .collect()
        };
        for amount in 1..=100 {
            assert_eq!(
                client
                    .charge(&amount.to_string(), &of_amount(amount))
                    .await
                    .status,
                201
            );
        }

        let full = client.get("/v1/charges").await.json();
        assert_eq!(full["has_more"], false);
        assert_eq!(amounts(&full), (1..=100).rev().collect::<Vec<_>>());

        client.charge("101", &of_amount(101)).await;
        let more = client.get("/v1/charges").await.json();
        assert_eq!(more["has_more"], true);
        assert_eq!(amounts(&more), (2..=101).rev().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_form_asks_for_a_charge_too() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let form = || {
        client
            .post()
            .header("idempotency-key", "k")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("amount=1999&currency=GBP&customer=Ann+%26+Bob&metadata[order]=7")
    };

    let first = client.send(form()).await.unwrap();
    let again = client.send(form()).await.unwrap();

    assert_eq!(first.status, 201);
    let charge = first.json();
    assert_eq!(charge["amount"], 1999);
    assert_eq!(charge["currency"], "gbp");
    assert_eq!(charge["customer"], "Ann & Bob");
    assert_eq!(charge["order"], Value::Null);
    assert_eq!(again.replayed(), Some(true));
    assert_eq!(again.body, first.body);
}

#[tokio::test]
async fn the_largest_amount_is_charged_and_one_more_is_not() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());
    let form = |amount: u32| {
        let body = format!("amount={amount}&currency=usd");
        client
            .post()
            .header(
                "content-type",
                "application/x-www-form-urlencoded; charset=utf-8",
            )
            .body(body)
    };

    for (key, amount, status) in [
        ("a", 1, 201),
        ("b", 99_999_999, 201),
        ("c", 100_000_000, 422),
    ] {
        let as_json = client.charge(key, &of_amount(amount.into())).await;
        let as_form = form(amount).header("idempotency-key", format!("{key}-form"));
        let as_form = client.send(as_form).await.unwrap();
        for answer in [as_json, as_form] {
            assert_eq!(answer.status, status, "{amount}: {answer:?}");
            if status == 201 {
                assert_eq!(answer.json()["amount"], amount);
            } else {
                assert!(answer.detail().contains("`amount`"), "{}", answer.detail());
            }
        }
    }

    assert_eq!(
        Provider::new(program.provider_url()).ledger().await.calls,
        4
    );
}

#[tokio::test]
async fn what_is_public_can_only_be_read() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    for path in ["/healthz", "/metrics"] {
        let read = client.send(client.bare("GET", path)).await.unwrap();
        let written = client.send(client.bare("POST", path)).await.unwrap();
        assert_eq!(read.status, 200, "{path}");
        assert_eq!(written.problem(), (405, "no-such-method".into()), "{path}");
    }
}

#[tokio::test]
async fn any_other_content_type_or_none_is_read_as_json() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    for (key, content_type) in [("a", None), ("b", Some("text/plain")), ("c", Some("junk"))] {
        let mut request = client
            .post()
            .header("idempotency-key", key)
            .body(of_amount(5).to_string());
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        assert_eq!(
            client.send(request).await.unwrap().status,
            201,
            "{content_type:?}"
        );
    }
}

#[tokio::test]
async fn bad_input_names_its_field_and_is_the_answer_of_its_key() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    for (field, request) in [
        ("amount", json!({"currency": "usd"})),
        ("amount", json!({"amount": 0, "currency": "usd"})),
        ("amount", json!({"amount": "5", "currency": "usd"})),
        ("currency", json!({"amount": 5, "currency": "dollar"})),
        ("order", json!({"amount": 5, "currency": "usd", "order": 7})),
        (
            "customer",
            json!({"amount": 5, "currency": "usd", "customer": {}}),
        ),
    ] {
        let key = request.to_string().replace(' ', "");
        let refused = client.charge(&key, &request).await;
        assert_eq!(
            refused.problem(),
            (422, "invalid-field".into()),
            "{request}"
        );
        assert!(refused.detail().contains(field), "{}", refused.detail());

        let again = client.charge(&key, &request).await;
        assert_eq!(again.replayed(), Some(true), "{request}");
        assert_eq!(again.body, refused.body, "{request}");
    }
    let broken = client.post().header("idempotency-key", "broken").body("{");
    let broken = client.send(broken).await.unwrap();
    assert_eq!(broken.problem(), (400, "malformed-body".into()));

    assert_eq!(
        Provider::new(program.provider_url()).ledger().await.calls,
        0
    );
}

/// Stored as something else, it would be a charge that nobody asked for.
#[tokio::test]
async fn a_form_that_is_no_text_charges_nothing() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    let form = client
        .post()
        .header("idempotency-key", "k")
        .header("content-type", "application/x-www-form-urlencoded")
        .body("amount=5&currency=usd&order=%ff");
    let refused = client.send(form).await.unwrap();

    assert_eq!(refused.problem(), (422, "invalid-field".into()));
    let ledger = Provider::new(program.provider_url()).ledger().await;
    assert_eq!(ledger.calls, 0);
}

#[tokio::test]
async fn what_is_not_there_claims_no_key() {
    let folder = tempdir().unwrap();
    let program = Program::serve(folder.path(), &["--store", "memory:"]).await;
    let client = Client::new(program.api());

    for (method, path, status) in [
        ("POST", "/v1/nothing", StatusCode::NOT_FOUND),
        ("PATCH", "/v1/charges", StatusCode::METHOD_NOT_ALLOWED),
        ("POST", "/v1/charges/ch_1", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        let request = client
            .bare(method, path)
            .bearer_auth("sk_test")
            .header("idempotency-key", "k")
            .json(&of_amount(100));
        let answer = client.send(request).await.unwrap();
        assert_eq!(answer.problem().0, status, "{method} {path}");
        assert_eq!(answer.replayed(), None, "{method} {path}");
    }

    let charged = client.charge("k", &of_amount(100)).await;
    assert_eq!((charged.status, charged.replayed()), (201, Some(false)));
}
