#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn check() -> Result<(), BoxError> {
    let caller = Caller {
        rules: Rules::default(),
        budget: Budget::default(),
        breaker: CircuitBreaker::new("queue"),
        patience: Duration::from_secs(30),
    };
    let reset = || Err::<u32, _>(io::Error::from(io::ErrorKind::ConnectionReset));
    let mut calls = 0;
    let answer = caller
        .call(true, async || {
            calls += 1;
            if calls < 3 { reset() } else { Ok(calls) }
        })
        .await?;
    assert_eq!(answer, 3);
    let mut calls = 0;
    caller
        .call(false, async || {
            calls += 1;
            reset()
        })
        .await
        .unwrap_err();
    assert_eq!(calls, 1, "the destination may have acted on it");
    for _ in 0..2 {
        caller.call(true, async || reset()).await.unwrap_err();
    }
    let error = caller.call(true, async || Ok(())).await.unwrap_err();
    assert!(error.is::<steadfast::circuit_breaker::Rejected>());
    Ok(())
}
