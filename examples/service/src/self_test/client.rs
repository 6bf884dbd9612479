//! An HTTP client with one connection that is kept.

use std::io;
use std::net::SocketAddr;

use axum::http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;

/// A connection.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; `Null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Whether the status is this one.
    pub fn is(&self, status: u16) -> bool {
        self.status.as_u16() == status
    }
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        // It ends with the sender; what goes wrong is told to whoever waits for an answer.
        tokio::spawn(async { drop(connection.await) });
        Ok(Self { address, sender })
    }

    /// Sends a request and reads the answer. Connects anew if the connection was closed.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn ask(&mut self, method: Method, path: &str, body: Bytes) -> io::Result<Answer> {
        if self.sender.ready().await.is_err() {
            *self = Self::connect(self.address).await?;
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .body(Full::new(body))
            .map_err(io::Error::other)?;
        let response = self.sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Answer { status, body })
    }

    /// Asks with `POST`.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn post(&mut self, path: &str, body: impl Into<Bytes>) -> io::Result<Answer> {
        self.ask(Method::POST, path, body.into()).await
    }

    /// Asks with `GET`.
    ///
    /// # Errors
    /// There is no whole answer.
    pub async fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.ask(Method::GET, path, Bytes::new()).await
    }
}
