#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), BoxError> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let echo = get(async |headers: http::HeaderMap| headers[TIMEOUT].to_str().unwrap().to_owned());
    tokio::spawn(async { axum::serve(listener, Router::new().route("/", echo)).await });

    let app = app(Prices::new(reqwest::Client::new(), url)?);
    for (mine, most) in [(Some("1500"), 1500), (Some("60000"), 2000), (None, 2000)] {
        let mut request = http::Request::get("/quote").body(axum::body::Body::empty())?;
        if let Some(mine) = mine {
            request.headers_mut().insert(TIMEOUT, mine.parse()?);
        }
        let response = app.clone().oneshot(request).await?;
        let told = axum::body::to_bytes(response.into_body(), 100).await?;
        let told: u64 = std::str::from_utf8(&told)?.parse()?;
        assert!((1..=most).contains(&told), "{told} of {most}");
    }
    Ok(())
}
