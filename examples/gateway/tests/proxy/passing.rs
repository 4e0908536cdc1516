//! What passes, and what does not.

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, channel::Channel, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use steadfast::http::BoxError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    Connection, Gateway, Protocol, Raw, Reply, Upstream, dead, empty, says, text, within,
};

/// A body whose length nobody knows, or HTTP/1 has no place for trailers.
fn with_trailers(text: &'static str, sum: &'static str) -> UnsyncBoxBody<Bytes, BoxError> {
    let (mut sender, body) = Channel::new(2);
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), sum.parse().unwrap())]);
    for frame in [Frame::data(Bytes::from(text)), Frame::trailers(trailers)] {
        assert!(sender.try_send(frame).is_ok());
    }
    body.boxed_unsync()
}

fn says_with_trailers() -> Reply {
    let body = with_trailers("answer", "of the answer");
    let response = Response::builder()
        .status(207)
        .header("x-answer", "one")
        .header("x-answer", "two")
        .header("trailer", "x-sum");
    Some(response.body(body).unwrap())
}

#[tokio::test]
async fn a_request_and_its_answer_pass_whole_in_any_version() {
    for client in Protocol::ALL {
        for arguments in [&[][..], &["--upstream-http2"]] {
            let upstream = Upstream::that(|_| says_with_trailers()).await;
            let gateway = Gateway::with(&[&upstream.at("/orders")], arguments).await;
            let body = with_trailers("question", "of the question");
            let mut request = empty("REPORT", "/orders/a%20b//c?d=e&f=%3F").map(|_| body);
            for (name, value) in [
                ("x-question", "one"),
                ("x-question", "two"),
                ("te", "trailers"),
                ("trailer", "x-sum"),
                ("x-previous-attempts", "4"),
            ] {
                request.headers_mut().append(name, value.parse().unwrap());
            }

            let mut connection = Connection::open(client, gateway.address).await;
            let answer = connection.send(request).await.unwrap();

            let case = format!("{client:?} {arguments:?}");
            let seen = &upstream.seen()[0];
            assert_eq!(seen.head.method, "REPORT", "{case}");
            let path = seen.head.uri.path_and_query().unwrap();
            assert_eq!(path, "/orders/a%20b//c?d=e&f=%3F", "{case}");
            assert_eq!(seen.header("x-question"), ["one", "two"], "{case}");
            assert_eq!(seen.header("x-previous-attempts"), ["4"], "{case}");
            assert_eq!(seen.body, "question", "{case}");
            let sum = seen.trailers.as_ref().unwrap().get("x-sum");
            assert_eq!(sum.unwrap(), "of the question", "{case}");
            assert_eq!(answer.status, 207, "{case}");
            let values: Vec<_> = answer.headers.get_all("x-answer").iter().collect();
            assert_eq!(values, ["one", "two"], "{case}");
            assert_eq!(answer.text(), "answer", "{case}");
            let sum = answer.trailers.as_ref().unwrap().get("x-sum");
            assert_eq!(sum.unwrap(), "of the answer", "{case}");
        }
    }
}

#[tokio::test]
async fn what_is_of_the_clients_connection_stays_there() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;
    let mut connection = Raw::connect(gateway.address).await;
    connection
        .send(
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close, X-Mine, x-forwarded-for\r\nconnection: x-other\r\nx-mine: 1\r\n\
             x-other: 2\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: Basic c2VjcmV0\r\n\
             te: gzip\r\nupgrade: websocket\r\nx-yours: 3\r\n\r\n",
        )
        .await;

    let answer = connection.rest().await;

    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let seen = &upstream.seen()[0];
    for name in [
        "connection",
        "x-mine",
        "x-other",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
    ] {
        assert!(seen.header(name).is_empty(), "{name}");
    }
    assert_eq!(seen.header("x-yours"), ["3"]);
    assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
}

#[tokio::test]
async fn what_is_of_the_upstreams_connection_stays_there() {
    let upstream = Upstream::that(|_| {
        let mut response = says(200, "answer")?;
        for (name, value) in [
            ("connection", "x-mine"),
            ("x-mine", "1"),
            ("keep-alive", "timeout=5"),
            ("proxy-authenticate", "Basic"),
            ("upgrade", "h2c"),
            ("proxy-status", "cache; hit"),
        ] {
            response.headers_mut().append(name, value.parse().unwrap());
        }
        Some(response)
    })
    .await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    for client in Protocol::ALL {
        let mut connection = Connection::open(client, gateway.address).await;
        let answer = connection.send(empty("GET", "/")).await.unwrap();

        assert_eq!(answer.text(), "answer");
        for name in [
            "connection",
            "x-mine",
            "keep-alive",
            "proxy-authenticate",
            "upgrade",
        ] {
            assert!(!answer.headers.contains_key(name), "{client:?} {name}");
        }
        assert_eq!(answer.headers["proxy-status"], "cache; hit");
        assert_eq!(answer.headers["via"], "1.1 steadfast-gateway");
    }
}

#[tokio::test]
async fn an_upstream_learns_for_whom_it_is_and_by_which_way_it_came() {
    for (client, version) in [(Protocol::Http1, "1.1"), (Protocol::Http2, "2")] {
        let upstream = Upstream::saying("answer").await;
        let gateway = Gateway::start(&[&upstream.at("/")]).await;
        let mut request = empty("GET", "/");
        for (name, value) in [
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "bank.test"),
            ("forwarded", "for=10.0.0.1"),
            ("via", "1.1 somebody"),
        ] {
            request.headers_mut().append(name, value.parse().unwrap());
        }

        let mut connection = Connection::open(client, gateway.address).await;
        connection.send(request).await.unwrap();

        let seen = &upstream.seen()[0];
        assert_eq!(seen.header("host"), [upstream.authority()]);
        assert_eq!(seen.header("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(seen.header("x-forwarded-proto"), ["http"]);
        let asked = gateway.address.to_string();
        assert_eq!(seen.header("x-forwarded-host"), [asked]);
        assert!(seen.header("forwarded").is_empty());
        let via = format!("{version} steadfast-gateway");
        assert_eq!(seen.header("via"), ["1.1 somebody", &via]);
    }
}

#[tokio::test]
async fn the_longest_prefix_of_whole_segments_has_the_path() {
    let (orders, new, all) = (
        Upstream::saying("orders").await,
        Upstream::saying("new").await,
        Upstream::saying("all").await,
    );
    let routes = [orders.at("/orders"), new.at("/orders/new/"), all.at("/")];
    let routes: Vec<&str> = routes.iter().map(String::as_str).collect();

    let gateway = Gateway::start(&routes).await;

    for (path, text) in [
        ("/orders", "orders"),
        ("/orders/", "orders"),
        ("/orders/newer", "orders"),
        ("/orders/new", "new"),
        ("/orders/new/1?x", "new"),
        ("/ordersx", "all"),
        ("/", "all"),
    ] {
        assert_eq!(gateway.get(path).await.text(), text, "{path}");
    }
    let narrow = Gateway::start(&[&orders.at("/orders")]).await;
    let answer = narrow.get("/ordersx").await;
    assert_eq!(answer.problem(), (404, "no-route".to_owned()));
}

#[tokio::test]
async fn the_length_of_an_answer_is_told_as_it_was_also_where_it_has_no_body() {
    let upstream = Upstream::saying("answer").await;
    let gateway = Gateway::start(&[&upstream.at("/")]).await;

    for method in ["GET", "HEAD"] {
        let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
        let answer = connection.send(empty(method, "/")).await.unwrap();
        assert_eq!(answer.headers["content-length"], "6", "{method}");
        assert_eq!(answer.body.is_empty(), method == "HEAD");
    }
    let mut connection = Connection::open(Protocol::Http1, gateway.address).await;
    connection.send(text("POST", "/", "four")).await.unwrap();
    let last = upstream.seen().pop().unwrap();
    assert_eq!(last.header("content-length"), ["4"]);
}

#[tokio::test]
async fn an_answer_in_an_old_version_or_another_protocol_is_no_riddle_to_the_client() {
    let (socket, url) = dead();
    let listener = socket.listen(8).unwrap();
    tokio::spawn(async move {
        for answer in [
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            _ = stream.read(&mut head).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let gateway = Gateway::start(&[&format!("/={url}")]).await;
    let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

    let mut connection = Raw::connect(gateway.address).await;
    connection.send(ask).await;
    let answer = connection.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("via: 1.0 steadfast-gateway"), "{answer}");

    let mut connection = Raw::connect(gateway.address).await;
    connection.send(ask).await;
    let answer = connection.rest().await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(answer.contains("upstream-failed"), "{answer}");
}

#[tokio::test]
async fn frames_pass_as_they_come_in_both_directions_at_once() {
    let upstream = Upstream::serving(async |request| {
        let echo = request.into_body().map_err(Into::into);
        Some(Response::new(echo.boxed_unsync()))
    })
    .await;
    let gateway = Gateway::with(&[&upstream.at("/")], &["--upstream-http2"]).await;
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let request = empty("POST", "/").map(|_| body.boxed_unsync());

    let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
    let mut answer = connection.begin(request).await.unwrap().into_body();

    for word in ["one", "two", "three"] {
        sender.send_data(Bytes::from(word)).await.unwrap();
        let frame = within(answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), word);
    }
    drop(sender);
    assert!(
        within(answer.collect())
            .await
            .unwrap()
            .to_bytes()
            .is_empty()
    );
}
