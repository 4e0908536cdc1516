use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::within;

/// A connection over which anything can be sent.
pub(crate) struct Raw(TcpStream);

impl Raw {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends what the other side takes: it may have closed already.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        _ = self.0.write_all(bytes.as_ref()).await;
    }

    /// All that comes until the other side closes; a reset is an end too.
    pub(crate) async fn rest(mut self) -> String {
        let mut read = Vec::new();
        _ = within(self.0.read_to_end(&mut read)).await;
        String::from_utf8_lossy(&read).into_owned()
    }
}
