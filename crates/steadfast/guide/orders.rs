// What tonic makes of `shop.Orders`, cut down to what the pages of the guide call.

#[derive(Clone, PartialEq, ::prost::Message)]
pub struct PlaceRequest {
    #[prost(uint64, tag = "1")]
    pub amount: u64,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub struct GetRequest {
    #[prost(string, tag = "1")]
    pub id: ::prost::alloc::string::String,
}

#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Order {
    #[prost(string, tag = "1")]
    pub id: ::prost::alloc::string::String,
    #[prost(uint64, tag = "2")]
    pub amount: u64,
}

pub mod orders_client {
    use tonic::codegen::{http::uri::PathAndQuery, *};

    #[derive(Clone, Debug)]
    pub struct OrdersClient<T> {
        inner: tonic::client::Grpc<T>,
    }

    impl<T> OrdersClient<T>
    where
        T: tonic::client::GrpcService<tonic::body::Body>,
        T::Error: Into<StdError>,
        T::ResponseBody: Body<Data = Bytes> + Send + 'static,
        <T::ResponseBody as Body>::Error: Into<StdError> + Send,
    {
        pub fn new(inner: T) -> Self {
            Self {
                inner: tonic::client::Grpc::new(inner),
            }
        }

        pub async fn place(
            &mut self,
            request: impl tonic::IntoRequest<super::PlaceRequest>,
        ) -> Result<tonic::Response<super::Order>, tonic::Status> {
            self.unary(request.into_request(), "/shop.Orders/Place")
                .await
        }

        pub async fn get(
            &mut self,
            request: impl tonic::IntoRequest<super::GetRequest>,
        ) -> Result<tonic::Response<super::Order>, tonic::Status> {
            self.unary(request.into_request(), "/shop.Orders/Get").await
        }

        async fn unary<M: ::prost::Message + Send + Sync + 'static>(
            &mut self,
            request: tonic::Request<M>,
            path: &'static str,
        ) -> Result<tonic::Response<super::Order>, tonic::Status> {
            self.inner.ready().await.map_err(|error| {
                tonic::Status::unknown(format!("Service was not ready: {}", error.into()))
            })?;
            let codec = tonic_prost::ProstCodec::default();
            self.inner
                .unary(request, PathAndQuery::from_static(path), codec)
                .await
        }
    }
}

pub mod orders_server {
    use tonic::codegen::*;

    #[async_trait]
    pub trait Orders: Send + Sync + 'static {
        async fn place(
            &self,
            request: tonic::Request<super::PlaceRequest>,
        ) -> Result<tonic::Response<super::Order>, tonic::Status>;

        async fn get(
            &self,
            request: tonic::Request<super::GetRequest>,
        ) -> Result<tonic::Response<super::Order>, tonic::Status>;
    }

    #[derive(Debug)]
    pub struct OrdersServer<T> {
        inner: Arc<T>,
    }

    impl<T> OrdersServer<T> {
        pub fn new(inner: T) -> Self {
            Self {
                inner: Arc::new(inner),
            }
        }
    }

    impl<T> Clone for OrdersServer<T> {
        fn clone(&self) -> Self {
            Self {
                inner: Arc::clone(&self.inner),
            }
        }
    }

    impl<T, B> Service<http::Request<B>> for OrdersServer<T>
    where
        T: Orders,
        B: Body + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        type Response = http::Response<tonic::body::Body>;
        type Error = std::convert::Infallible;
        type Future = BoxFuture<Self::Response, Self::Error>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<B>) -> Self::Future {
            let orders = Arc::clone(&self.inner);
            Box::pin(async move {
                Ok(match request.uri().path() {
                    "/shop.Orders/Place" => {
                        let place = tower::service_fn(move |request| {
                            let orders = Arc::clone(&orders);
                            async move { orders.place(request).await }
                        });
                        let codec = tonic_prost::ProstCodec::default();
                        tonic::server::Grpc::new(codec).unary(place, request).await
                    }
                    "/shop.Orders/Get" => {
                        let get = tower::service_fn(move |request| {
                            let orders = Arc::clone(&orders);
                            async move { orders.get(request).await }
                        });
                        let codec = tonic_prost::ProstCodec::default();
                        tonic::server::Grpc::new(codec).unary(get, request).await
                    }
                    _ => tonic::Status::unimplemented("").into_http(),
                })
            })
        }
    }

    pub const SERVICE_NAME: &str = "shop.Orders";

    impl<T> tonic::server::NamedService for OrdersServer<T> {
        const NAME: &'static str = SERVICE_NAME;
    }
}
