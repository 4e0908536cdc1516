//! What no honest client sends.

use crate::support::{Connection, Gateway, Protocol, Raw, Upstream, empty, text};

/// What comes back for these bytes, whose connection the client does not keep.
async fn ask(gateway: &Gateway, bytes: &str) -> String {
    let mut connection = Raw::connect(gateway.address).await;
    connection.send(bytes).await;
    connection.rest().await
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused_and_goes_nowhere() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/orders")]).await;
    let head = "host: a\r\nconnection: close\r\n";

    for (request, status, code) in [
        (
            "GET /orders HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(),
            400,
            "host-refused",
        ),
        (
            format!("GET /orders HTTP/1.1\r\nhost: b\r\n{head}\r\n"),
            400,
            "host-refused",
        ),
        (
            "GET /orders HTTP/1.1\r\nhost: a b\r\nconnection: close\r\n\r\n".to_owned(),
            400,
            "host-refused",
        ),
        (
            "GET /orders HTTP/1.1\r\nhost: \r\nconnection: close\r\n\r\n".to_owned(),
            400,
            "host-refused",
        ),
        (
            format!("GET http://me:secret@a/orders HTTP/1.1\r\n{head}\r\n"),
            400,
            "host-refused",
        ),
        (
            format!("GET /orders/../admin HTTP/1.1\r\n{head}\r\n"),
            400,
            "path-refused",
        ),
        (
            format!("GET /orders/%2e%2E/admin HTTP/1.1\r\n{head}\r\n"),
            400,
            "path-refused",
        ),
        (
            format!("GET /orders/..%2fadmin HTTP/1.1\r\n{head}\r\n"),
            400,
            "path-refused",
        ),
        (
            format!("GET /orders/..;/admin HTTP/1.1\r\n{head}\r\n"),
            400,
            "path-refused",
        ),
        (
            format!("GET /orders/..%5cadmin HTTP/1.1\r\n{head}\r\n"),
            400,
            "path-refused",
        ),
        (
            format!("CONNECT bank.test:443 HTTP/1.1\r\n{head}\r\n"),
            501,
            "method-refused",
        ),
        (
            format!("TRACE /orders HTTP/1.1\r\n{head}\r\n"),
            501,
            "method-refused",
        ),
        (format!("OPTIONS * HTTP/1.1\r\n{head}\r\n"), 404, "no-route"),
        (
            format!(
                "POST /orders HTTP/1.1\r\n{head}transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"
            ),
            501,
            "transfer-coding-refused",
        ),
        (
            format!(
                "POST /orders HTTP/1.1\r\n{head}transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            ),
            501,
            "transfer-coding-refused",
        ),
    ] {
        let answer = ask(&gateway, &request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}{answer}"
        );
        assert!(
            answer.contains(&format!(r#""code":"{code}""#)),
            "{request}{answer}"
        );
        assert!(
            answer.contains("application/problem+json"),
            "{request}{answer}"
        );
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn a_path_that_is_one_of_two_routes_goes_to_neither() {
    let (orders, all) = (
        Upstream::saying("orders").await,
        Upstream::saying("all").await,
    );
    let gateway = Gateway::start(&[&orders.at("/orders"), &all.at("/")]).await;

    for path in [
        "//orders/1",
        "/%6frders/1",
        "/orders;x=y/1",
        "/orders%2f1",
        "/%5corders/1",
    ] {
        let answer = gateway.get(path).await;
        assert_eq!(answer.problem(), (400, "path-refused".to_owned()), "{path}");
    }
    assert_eq!((orders.connections(), all.connections()), (0, 0));
    for path in ["/orders//1", "/orders/%31;x=y", "/orders/"] {
        assert_eq!(gateway.get(path).await.text(), "orders", "{path}");
    }
    assert_eq!(gateway.get("//other;x/%31").await.text(), "all");
}

#[tokio::test]
async fn a_grpc_call_is_refused_with_a_status() {
    let upstream = Upstream::saying("answer").await;
    let limits = ["--upstream-http2", "--max-body", "9"];
    let gateway = Gateway::with(&[&upstream.at("/shop")], &limits).await;

    for (path, body, status) in [
        ("/other/Buy", "", "12"),
        ("/shop/../Buy", "", "3"),
        ("/shop/Buy", "ten bytes.", "8"),
    ] {
        let mut call = text("POST", path, body);
        let grpc = "application/grpc+proto".parse().unwrap();
        call.headers_mut().insert("content-type", grpc);
        let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
        let answer = connection.send(call).await.unwrap();

        assert_eq!((answer.status.as_u16(), answer.text()), (200, ""), "{path}");
        assert_eq!(answer.headers["content-type"], "application/grpc");
        assert_eq!(answer.headers["grpc-status"], status, "{path}");
        assert!(answer.headers.contains_key("grpc-message"), "{path}");
        assert_eq!(answer.headers["grpc-retry-pushback-ms"], "-1");
    }
    assert_eq!(upstream.connections(), 0);
}

#[tokio::test]
async fn what_is_no_request_is_refused_by_the_server_itself() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;
    let huge = "x".repeat(1 << 20);

    for (request, status) in [
        ("nonsense\r\n\r\n".to_owned(), 400),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
        (
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n".to_owned(),
            400,
        ),
        ("GET / HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n".to_owned(), 400),
        (
            "GET / HTTP/1.1\r\nhost: a\r\nx: y\0z\r\n\r\n".to_owned(),
            400,
        ),
        (
            format!("GET / HTTP/1.1\r\nhost: a\r\nx: {huge}\r\n\r\n"),
            431,
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nhost: a\r\n{}\r\n",
                "x: y\r\n".repeat(200)
            ),
            431,
        ),
    ] {
        let answer = ask(&gateway, &request).await;
        let shown: String = request.chars().take(60).collect();
        // Who still sends may miss the answer: the connection is reset by what was not read.
        let was_missed = answer.is_empty() && request.len() > 1 << 19;
        let expected = format!("HTTP/1.1 {status}");
        assert!(
            was_missed || answer.starts_with(&expected),
            "{shown}: {answer}"
        );
    }
    assert_eq!(upstream.connections(), 0);
    assert_eq!(gateway.get("/").await.text(), "answer", "it goes on");
}

#[tokio::test]
async fn a_target_in_absolute_form_is_no_way_to_another_server() {
    let (upstream, other) = (
        Upstream::saying("answer").await,
        Upstream::saying("other").await,
    );
    let gateway = Gateway::start(&[&upstream.at("/orders")]).await;
    let request = format!(
        "GET {}/orders?a=b HTTP/1.1\r\nhost: ignored.test\r\nconnection: close\r\n\r\n",
        other.url()
    );

    let answer = ask(&gateway, &request).await;

    assert!(answer.ends_with("answer"), "{answer}");
    let seen = &upstream.seen()[0];
    assert_eq!(seen.head.uri, "/orders?a=b");
    assert_eq!(seen.header("host"), [upstream.authority()]);
    assert_eq!(seen.header("x-forwarded-host"), [other.authority()]);
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn a_request_of_http_1_0_needs_no_host() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    let answer = ask(
        &gateway,
        "GET / HTTP/1.0\r\nx-forwarded-host: bank.test\r\n\r\n",
    )
    .await;

    assert!(answer.ends_with("answer"), "{answer}");
    let seen = &upstream.seen()[0];
    assert!(seen.header("x-forwarded-host").is_empty());
    assert_eq!(seen.header("via"), ["1.0 steadfast-gateway"]);
}

#[tokio::test]
async fn the_same_is_refused_over_http_2() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/orders")]).await;

    for (method, path, refusal) in [
        ("GET", "/orders/../admin", (400, "path-refused")),
        ("TRACE", "/orders", (501, "method-refused")),
        ("GET", "/admin", (404, "no-route")),
    ] {
        let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
        let answer = connection.send(empty(method, path)).await.unwrap();
        assert_eq!(answer.problem(), (refusal.0, refusal.1.to_owned()));
    }
    let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
    let mut huge = empty("GET", "/orders");
    let value = "x".repeat(100 << 10).parse().unwrap();
    huge.headers_mut().insert("x", value);
    let answer = connection.send(huge).await;
    assert!(answer.is_err() || answer.unwrap().status == 431);
    assert_eq!(upstream.connections(), 0);
}
