#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn Error>> {
    use std::sync::{Arc, Mutex};

    // Fails until the fifth call.
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let keys = Arc::clone(&seen);
    let charges = async move |headers: axum::http::HeaderMap| {
        let mut keys = keys.lock().unwrap();
        keys.push(headers["idempotency-key"].to_str().unwrap().to_owned());
        if keys.len() < 5 {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::CREATED
        }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let routes = Router::new().route("/charges", post(charges));
    tokio::spawn(async { axum::serve(listener, routes).await });

    let provider = Provider::new(url)?;
    let app = app(steadfast::store::MemoryStore::default(), provider.clone())?;
    let charge = |key: &str| {
        let request = axum::extract::Request::post("/v1/charges")
            .header("authorization", "Bearer acme")
            .header("idempotency-key", key)
            .body(axum::body::Body::empty())
            .unwrap();
        let answer = app.clone().oneshot(request);
        async { answer.await.unwrap() }
    };
    let first = charge("order-1").await;
    assert_eq!(first.status(), 503);
    assert!(!first.headers().contains_key(RETRY_AFTER));
    let second = charge("order-1").await;
    assert_eq!(
        (
            second.status().as_u16(),
            second.headers()["idempotent-replayed"].to_str()?
        ),
        (201, "false")
    );
    let third = charge("order-1").await;
    assert_eq!(
        (
            third.status().as_u16(),
            third.headers()["idempotent-replayed"].to_str()?
        ),
        (201, "true")
    );
    {
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 5, "three attempts, and two");
        assert!(seen.iter().all(|key| *key == seen[0] && key.len() == 32));
    }

    provider.breaker.force_open();
    let rejected = charge("order-2").await;
    assert_eq!(rejected.status(), 503);
    assert_eq!(rejected.headers()[RETRY_AFTER], "30");
    assert_eq!(
        rejected.extensions().get::<Outcome>(),
        Some(&Outcome::Release)
    );
    assert_eq!(seen.lock().unwrap().len(), 5);
    let health = axum::extract::Request::get("/healthz").body(axum::body::Body::empty())?;
    assert_eq!(app.clone().oneshot(health).await?.status(), 200);
    provider.breaker.force_closed();

    // Neither a redirect to a page that answers 200 nor a declined card is a charge.
    let elsewhere = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let redirecting = Provider::new(format!("http://{}", elsewhere.local_addr()?))?;
    let charges = async |amount: String| match &*amount {
        "402" => StatusCode::PAYMENT_REQUIRED.into_response(),
        _ => axum::response::Redirect::to("/login").into_response(),
    };
    let routes = Router::new()
        .route("/charges", post(charges))
        .route("/login", get(async || "who are you?"));
    tokio::spawn(async { axum::serve(elsewhere, routes).await });
    assert_eq!(redirecting.charge("k", 1999).await?.status(), 303);
    assert_eq!(redirecting.charge("k", 402).await?.status(), 402);

    // Three attempts; two, and a rejection of the third; a rejection of the first.
    let down = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let provider = Provider::new(format!("http://{}", down.local_addr()?))?;
    tokio::spawn(async {
        axum::serve(
            down,
            Router::new().fallback(async || StatusCode::BAD_GATEWAY),
        )
        .await
    });
    let mut outcomes = Vec::new();
    for _ in 0..3 {
        let said = provider.charge("k", 5).await?;
        let attempts = RetryOutcome::of(said.extensions()).map(|outcome| outcome.attempts());
        outcomes.push((
            said.extensions().get::<Rejected>().is_some(),
            attempts,
            is_unasked(&said),
        ));
    }
    assert_eq!(
        outcomes,
        [
            (false, Some(3), false),
            (true, Some(3), false),
            (true, Some(1), true)
        ]
    );
    Ok(())
}
