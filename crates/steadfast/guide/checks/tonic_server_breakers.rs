use shop::{GetRequest, Order, PlaceRequest, orders_client::OrdersClient};
use tonic::{Code, Request, Response, Status};

struct Shop;

#[tonic::async_trait]
impl Orders for Shop {
    async fn place(&self, _: Request<PlaceRequest>) -> Result<Response<Order>, Status> {
        Err(Status::internal("the disk is full"))
    }

    async fn get(&self, _: Request<GetRequest>) -> Result<Response<Order>, Status> {
        Ok(Response::new(Order::default()))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn check() -> Result<(), Box<dyn std::error::Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async { serve(TcpIncoming::from(listener), Shop).await.unwrap() });
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{address}"))?;
    let mut orders = OrdersClient::new(endpoint.connect().await?);

    for _ in 0..5 {
        let status = orders.place(PlaceRequest::default()).await.unwrap_err();
        assert_eq!(status.code(), Code::Internal);
    }
    let status = orders.place(PlaceRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    orders.get(GetRequest::default()).await?;
    Ok(())
}
