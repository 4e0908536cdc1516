//! One client and many, with the client that people use.

use axum::Router;
use futures_util::future::join_all;

use crate::support::{Bank, PROMISES, memory, serve};

const OPERATIONS: usize = 40;

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn pay(client: &reqwest::Client, url: &str, n: usize) -> (Option<String>, String) {
    let answer = client
        .post(url)
        .header("idempotency-key", format!("order-{n}"))
        .body(format!("amount={n}"))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 201);
    let marker = answer
        .headers()
        .get("idempotent-replayed")
        .map(|value| value.to_str().unwrap().to_owned());
    (marker, answer.text().await.unwrap())
}

#[tokio::test]
async fn one_connection_and_many_keep_each_operation_apart() {
    for promise in PROMISES {
        let bank = Bank::new();
        let router = Router::new()
            .route("/charges", bank.route())
            .route_layer(memory(promise));
        let url = format!("http://{}/charges", serve(router).await);

        // One after the other over one connection, then all at once over one each.
        let one = client();
        let mut firsts = Vec::new();
        for n in 0..OPERATIONS {
            firsts.push(pay(&one, &url, n).await);
        }
        let many: Vec<_> = (0..OPERATIONS).map(|_| client()).collect();
        let calls = many
            .iter()
            .enumerate()
            .map(|(n, client)| pay(client, &url, n));
        let replays = join_all(calls).await;

        for (n, (first, replay)) in firsts.into_iter().zip(replays).enumerate() {
            assert!(first.1.starts_with(&format!("amount={n} ")));
            assert_eq!(first.0.as_deref(), Some("false"));
            assert_eq!(replay.0.as_deref(), Some("true"));
            assert_eq!(first.1, replay.1);
        }
        assert_eq!(bank.started(), OPERATIONS);
    }
}
