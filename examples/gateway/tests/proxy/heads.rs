//! What the heads of messages may hold, and what becomes of single fields.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Connection, Gateway, Protocol, Raw, Upstream, dead, empty, says, within};

#[tokio::test]
async fn cookies_arrive_at_an_http_1_upstream_in_one_line() {
    for (arguments, expected) in [
        (&[][..], &["a=1; b=2; c=3"][..]),
        (&["--upstream-http2"], &["a=1", "b=2; c=3"]),
    ] {
        let upstream = Upstream::saying("answer").await;
        let gateway = Gateway::with(&[&upstream.at("/")], arguments).await;
        let mut request = empty("GET", "/");
        for cookie in ["a=1", "b=2; c=3"] {
            let cookie = cookie.parse().unwrap();
            request.headers_mut().append("cookie", cookie);
        }

        let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
        connection.send(request).await.unwrap();

        assert_eq!(upstream.seen()[0].header("cookie"), expected);
    }
}

#[tokio::test]
async fn what_the_gateway_has_promised_is_not_expected_of_the_upstream() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let mut connection = Raw::connect(gateway.address).await;
    connection
        .send("POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nfour")
        .await;
    let answer = connection.rest().await;

    assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    let seen = &upstream.seen()[0];
    assert_eq!(seen.body, "four");
    assert!(seen.header("expect").is_empty());
}

#[tokio::test]
async fn heads_have_as_many_fields_as_they_may() {
    let (socket, url) = dead();
    let listener = socket.listen(8).unwrap();
    // As many fields back as the path says.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let mut read = [0; 4096];
                let length = stream.read(&mut read).await.unwrap();
                head.push_str(std::str::from_utf8(&read[..length]).unwrap());
            }
            let path = head.split(' ').nth(1).unwrap();
            let count: usize = path.trim_start_matches('/').parse().unwrap();
            let fields = "x: y\r\n".repeat(count - 1);
            let answer = format!("HTTP/1.1 204 No Content\r\nconnection: close\r\n{fields}\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let gateway = Gateway::start(&[&format!("/={url}")]).await;

    for (asked, answered, status) in [(128, 1, 204), (129, 1, 431), (3, 128, 204), (3, 129, 502)] {
        let fields = "x: y\r\n".repeat(asked - 2);
        let mut connection = Raw::connect(gateway.address).await;
        connection
            .send(format!(
                "POST /{answered} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{fields}\r\n"
            ))
            .await;
        let answer = within(connection.rest()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{asked} {answered} {answer}"
        );
    }
}

#[tokio::test]
async fn heads_of_http_2_may_be_as_large_as_those_of_http_1() {
    const LENGTH: usize = 60 << 10;
    let upstream = Upstream::that(|number| {
        let mut answer = says(200, "answer")?;
        if number > 0 {
            let value = "x".repeat(LENGTH).parse().unwrap();
            answer.headers_mut().insert("x", value);
        }
        Some(answer)
    })
    .await;

    let gateway = Gateway::start(&[&upstream.at("/")]).await;
    let mut request = empty("GET", "/");
    let value = "x".repeat(LENGTH).parse().unwrap();
    request.headers_mut().insert("x", value);
    let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
    let answer = connection.send(request).await.unwrap();
    assert_eq!(answer.text(), "answer");
    assert_eq!(upstream.seen()[0].header("x")[0].len(), LENGTH);

    let gateway = Gateway::with(&[&upstream.at("/")], &["--upstream-http2"]).await;
    let answer = gateway.get("/").await;
    assert_eq!(answer.text(), "answer");
    assert_eq!(answer.headers["x"].len(), LENGTH);
}
