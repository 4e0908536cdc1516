//! The provider forgets its keys, breaks its promise, or says what nobody understands; the table of charges has the last word.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::Body,
    response::{Html, IntoResponse, Response},
    routing::{any, post},
};
use http::{Request, StatusCode};
use serde_json::json;
use tempfile::tempdir;
use tokio::sync::Barrier;

use crate::{
    client::Client,
    in_process::{charge, problem, send, serve_provider, stage_of},
    program::Program,
    provider::Provider,
    records,
};

/// The charge and its row stand; the record of the operation does not, and the provider is another one.
#[tokio::test]
async fn a_charge_that_is_kept_is_not_made_again_although_the_provider_forgot_it() {
    for (lost, record) in [("answer", true), ("record", false)] {
        let folder = tempdir().unwrap();
        let first_provider = Program::provider(folder.path()).await;
        let arguments = ["--provider-url", first_provider.provider_url()];
        let program = Program::serve(folder.path(), &arguments).await;
        let request = json!({"amount": 5, "currency": "usd", "order": "o", "customer": "c"});
        let first = Client::new(program.api()).charge("k", &request).await;
        assert_eq!(first.status, 201);
        program.kill();
        first_provider.kill();
        if record {
            records::lose_answers(folder.path()).await;
        } else {
            records::end_retention(folder.path()).await;
        }

        let forgetful = Program::provider(folder.path()).await;
        let arguments = ["--provider-url", forgetful.provider_url()];
        let program = Program::serve(folder.path(), &arguments).await;
        let client = Client::new(program.api());
        let again = client.charge("k", &request).await;
        let replayed = client.charge("k", &request).await;

        assert_eq!(
            (again.status, again.replayed()),
            (201, Some(false)),
            "{lost}"
        );
        assert_eq!(again.body, first.body, "{lost}");
        assert_eq!(replayed.replayed(), Some(true), "{lost}");
        assert_eq!(replayed.body, first.body, "{lost}");
        let ledger = Provider::new(forgetful.provider_url()).ledger().await;
        assert_eq!(ledger.calls, 0, "{lost}");
    }
}

#[tokio::test]
async fn a_key_of_a_kept_charge_cannot_ask_for_another_one() {
    let request = json!({"amount": 5, "currency": "usd", "order": "o", "customer": "c"});
    for (field, value) in [
        ("amount", json!(6)),
        ("currency", json!("eur")),
        ("order", json!("p")),
        ("customer", json!(null)),
    ] {
        let folder = tempdir().unwrap();
        let program = Program::serve(folder.path(), &[]).await;
        let client = Client::new(program.api());
        client.charge("k", &request).await;
        let mut changed = request.clone();
        changed[field] = value;
        let of_the_layer = client.charge("k", &changed).await;
        records::end_retention(folder.path()).await;

        let other = client.charge("k", &changed).await;

        assert_eq!(other.problem(), (422, "key-reused".into()), "{field}");
        assert_eq!(other.replayed(), Some(false), "the layer did not refuse it");
        let (api, layer) = (other.json(), of_the_layer.json());
        for member in ["type", "title", "status", "code", "retryable"] {
            assert_eq!(api[member], layer[member], "{field}: {member}");
        }
        assert!(other.detail().contains("nothing was charged now"));
        let ledger = Provider::new(program.provider_url()).ledger().await;
        assert_eq!((ledger.charges.len(), ledger.calls), (1, 1), "{field}");
    }
}

/// Two executions meet at a provider that makes a charge for each call. The records do not hold them apart, as after a lease that
/// was lost without anybody noticing.
#[tokio::test]
async fn a_surplus_charge_is_an_unknown_outcome_and_never_said_to_be_none() {
    let both = Arc::new(Barrier::new(2));
    let routes = Router::new().route(
        "/charges",
        post(async move || {
            let id = if both.wait().await.is_leader() {
                "pr_1"
            } else {
                "pr_2"
            };
            (
                StatusCode::CREATED,
                Json(json!({"id": id, "amount": 5, "at": 1})),
            )
        }),
    );
    let provider = serve_provider(routes).await;
    let (one, two) = stage_of(&provider).await;
    assert_eq!(surplus_charges(&one).await, "0");

    let answers = tokio::join!(send(&one.router, charge()), send(&two.router, charge()));

    let (won, (lost, loser)) = match answers {
        (won, lost) if won.status() == 201 => (won, (lost, two)),
        (lost, won) => (won, (lost, one)),
    };
    assert_eq!(won.status(), 201);
    assert_eq!(problem(&lost), (503, "outcome-unknown".into(), true));
    assert_eq!(lost.headers()["retry-after"], "1");
    let again = send(&loser.router, charge()).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.body(), won.body());
    assert_eq!(surplus_charges(&loser).await, "1");
}

/// The number that an alert looks at.
async fn surplus_charges(app: &payments::App) -> String {
    let scrape = Request::get("/metrics").body(Body::empty()).unwrap();
    let scrape = send(&app.router, scrape).await;
    let text = String::from_utf8(scrape.into_body().into()).unwrap();
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("payments_surplus_charges_total "));
    line.unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[tokio::test]
async fn whatever_the_provider_says_an_unknown_outcome_can_be_asked_again() {
    let made = || Json(json!({"id": "pr_1", "amount": 5, "at": 1}));
    let status = |status: u16| StatusCode::from_u16(status).unwrap().into_response();
    let redirect = |status: StatusCode| (status, [("location", "/elsewhere")]).into_response();
    let answers: Vec<(&str, Response)> = vec![
        ("provider-unavailable", status(408)),
        ("provider-unavailable", status(409)),
        ("provider-unavailable", status(425)),
        ("provider-unavailable", status(429)),
        ("provider-unavailable", status(500)),
        ("provider-unavailable", status(503)),
        ("provider-error", status(400)),
        ("provider-error", status(401)),
        ("provider-error", status(404)),
        ("provider-error", status(422)),
        ("provider-error", status(204)),
        // Who follows these asks with a GET, and who follows the last with the same POST.
        ("provider-error", redirect(StatusCode::FOUND)),
        ("provider-error", redirect(StatusCode::SEE_OTHER)),
        ("provider-error", redirect(StatusCode::TEMPORARY_REDIRECT)),
        (
            "provider-error",
            Html("<h1>maintenance</h1>").into_response(),
        ),
        (
            "provider-error",
            Json(json!({"id": "pr_1", "amount": 6, "at": 1})).into_response(),
        ),
    ];
    for (code, answer) in answers {
        let case = format!("{answer:?}");
        let (answers, next) = tokio::sync::mpsc::unbounded_channel();
        answers.send(answer).unwrap();
        answers.send(made().into_response()).unwrap();
        let next = Arc::new(tokio::sync::Mutex::new(next));
        let led_away = Arc::new(AtomicUsize::new(0));
        let followed = Arc::clone(&led_away);
        let elsewhere = any(async move || {
            followed.fetch_add(1, Ordering::SeqCst);
            StatusCode::NOT_FOUND
        });
        let routes = Router::new()
            .route(
                "/charges",
                post(async move || next.lock().await.recv().await.unwrap()),
            )
            .route("/elsewhere", elsewhere);
        let provider = serve_provider(routes).await;
        let (app, _) = stage_of(&provider).await;

        let unknown = send(&app.router, charge()).await;
        let found = send(&app.router, charge()).await;

        assert_eq!(problem(&unknown), (503, code.into(), true), "{case}");
        assert_eq!(unknown.headers()["retry-after"], "1", "{case}");
        assert_eq!(found.status(), 201, "{case}");
        assert_eq!(found.headers()["idempotent-replayed"], "false", "{case}");
        app.operations.drain(Duration::from_secs(30)).await.unwrap();
        let led_away = led_away.load(Ordering::SeqCst);
        assert_eq!(led_away, 0, "a charge may be sent on: {case}");
    }
}
