#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn Error>> {
    use shop::{Order, orders_server::OrdersServer};
    use std::sync::{Arc, Mutex};
    use tonic::{Request, Response, Status};
    #[derive(Default)]
    struct Flaky(Arc<Mutex<Vec<(String, String)>>>);
    #[tonic::async_trait]
    impl shop::orders_server::Orders for Flaky {
        async fn place(&self, request: Request<PlaceRequest>) -> Result<Response<Order>, Status> {
            let word = |name| {
                request
                    .metadata()
                    .get(name)
                    .map(|word| word.to_str().unwrap().to_owned())
            };
            let mut calls = self.0.lock().unwrap();
            calls.push((
                word("idempotency-key").unwrap(),
                word("grpc-timeout").unwrap(),
            ));
            if calls.len() < 3 {
                Err(Status::unavailable("closed"))
            } else {
                Ok(Response::new(Order::default()))
            }
        }
        async fn get(&self, _: Request<GetRequest>) -> Result<Response<Order>, Status> {
            self.0.lock().unwrap().clear();
            Ok(Response::new(Order::default()))
        }
    }
    let flaky = Flaky::default();
    let calls = Arc::clone(&flaky.0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = Channel::from_shared(format!("http://{}", listener.local_addr()?))?;
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let server = tonic::transport::Server::builder().add_service(OrdersServer::new(flaky));
    tokio::spawn(async { server.serve_with_incoming(incoming).await.unwrap() });
    let breaker = CircuitBreaker::new("orders");
    let orders = orders(endpoint, breaker.clone())?;
    orders.clone().place(PlaceRequest { amount: 5 }).await?;
    {
        let calls = calls.lock().unwrap();
        assert_eq!(calls.len(), 3);
        assert!(calls.iter().all(|(key, _)| *key == calls[0].0));
    }
    assert_eq!(
        breaker
            .snapshot()
            .failures()
            .map(|counts| (counts.calls, counts.failures)),
        Some((3, 2))
    );
    place(&orders).await?;
    breaker.force_open();
    let status = place(&orders).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable);
    Ok(())
}
