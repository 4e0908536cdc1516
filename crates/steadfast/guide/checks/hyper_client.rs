#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), BoxError> {
    use axum::{Router, http::StatusCode, response::IntoResponse, routing::get};
    use std::sync::atomic::{AtomicU32, Ordering};
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let flaky = get(async || match CALLS.fetch_add(1, Ordering::Relaxed) {
        0 | 1 => StatusCode::BAD_GATEWAY.into_response(),
        _ => "here".into_response(),
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let down = get(async || StatusCode::NOT_IMPLEMENTED);
    let app = Router::new().route("/", flaky).route("/down", down);
    tokio::spawn(async { axum::serve(listener, app).await });
    let client = outbound()?;
    assert_eq!(fetch(&client, &url).await?, "here");
    assert_eq!(CALLS.load(Ordering::Relaxed), 3);
    for _ in 0..5 {
        fetch(&client, &format!("{url}down")).await?;
    }
    let error = fetch(&client, &url).await.unwrap_err();
    assert!(error.is::<LocalRejection>(), "{error:?}");
    Ok(())
}
