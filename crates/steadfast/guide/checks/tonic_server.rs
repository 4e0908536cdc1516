#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn std::error::Error>> {
    use shop::orders_client::OrdersClient;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async {
        serve(
            TcpIncoming::from(listener),
            steadfast::store::MemoryStore::default(),
        )
        .await
        .unwrap()
    });
    let channel = tonic::transport::Channel::from_shared(format!("http://{address}"))?
        .connect()
        .await?;
    let mut orders = OrdersClient::new(channel);
    let place = |amount| {
        let mut request = Request::new(PlaceRequest { amount });
        request
            .metadata_mut()
            .insert("authorization", "Bearer acme".parse().unwrap());
        request
            .metadata_mut()
            .insert("idempotency-key", "k".parse().unwrap());
        request
    };
    let first = orders.place(place(5)).await?;
    let again = orders.place(place(5)).await?;
    assert_eq!(
        first.metadata().get("idempotent-replayed").unwrap(),
        "false"
    );
    assert_eq!(again.metadata().get("idempotent-replayed").unwrap(), "true");
    assert_eq!(first.into_inner(), again.into_inner());
    let reused = orders.place(place(6)).await.unwrap_err();
    assert_eq!(reused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(
        reused.metadata().get("grpc-retry-pushback-ms").unwrap(),
        "-1"
    );
    let refused = orders.place(PlaceRequest { amount: 5 }).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let mut get = Request::new(GetRequest { id: "7".into() });
    get.metadata_mut()
        .insert("authorization", "Bearer acme".parse()?);
    assert_eq!(orders.get(get).await?.into_inner().id, "7");
    Ok(())
}
