//! A network between a pool and its database that stops carrying anything.

use std::{future::pending, net::SocketAddr};

use reqwest::Url;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

pub(crate) struct Proxy {
    address: SocketAddr,
    freezes: watch::Sender<u64>,
}

impl Proxy {
    /// Stands before the server of `url`.
    pub(crate) async fn before(url: &str) -> Self {
        let url = Url::parse(url).unwrap();
        let server = (
            url.host_str().unwrap().to_owned(),
            url.port().unwrap_or(5432),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (freezes, frozen) = watch::channel(0);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut frozen = frozen.clone();
                let born = *frozen.borrow_and_update();
                let server = server.clone();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    let is_frozen = tokio::select! {
                        _ = copy_bidirectional(&mut near, &mut far) => false,
                        later = frozen.wait_for(|freezes| *freezes > born) => later.is_ok(),
                    };
                    if is_frozen {
                        // Neither end learns of it.
                        pending::<()>().await;
                    }
                });
            }
        });
        Self { address, freezes }
    }

    /// The URL of the server by way of the proxy.
    pub(crate) fn route(&self, url: &str) -> String {
        let mut url = Url::parse(url).unwrap();
        url.set_host(Some(&self.address.ip().to_string())).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }

    /// From here on the connections that are open carry nothing and stay open; new ones are as good as ever.
    pub(crate) fn freeze(&self) {
        self.freezes.send_modify(|freezes| *freezes += 1);
    }
}
