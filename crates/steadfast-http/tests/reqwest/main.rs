//! reqwest's client inside HTTP layers, against a server on the loopback interface.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    cell::Cell,
    convert::Infallible,
    fmt,
    future::ready,
    marker::PhantomData,
    task::{Context, Waker},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, Full, combinators::UnsyncBoxBody};
use reqwest::Url;
use steadfast_http::{
    IdempotentRequest, LocalRejection,
    body::FromBody,
    problem::Code,
    reqwest::{ReqwestLayer, ReqwestService, ReqwestStack},
};
use tokio::{net::TcpListener, time::Instant};
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt,
    layer::{layer_fn, util::Identity},
};

use crate::support::{
    Frames, Gate, LONG, NotSync, Rejecting, SHORT, Seen, Server, Torn, Twice, Wrapping, builder,
    causes, client, poll_ready_for, stack, within,
};

#[tokio::test]
async fn a_request_arrives_as_it_was_built() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .put(server.url("/seen?a=1%2F2&b"))
        .header("x-order", "first")
        .header("x-order", "second")
        .body("amount=12")
        .build()
        .unwrap();

    let response = stack(&client).oneshot(request).await.unwrap();

    let seen = Seen::of(response).await;
    assert_eq!(seen.line, "PUT /seen?a=1%2F2&b HTTP/1.1");
    assert_eq!(seen.all("x-order"), ["first", "second"]);
    assert_eq!(seen.all("content-length"), ["9"]);
    assert_eq!(seen.all("transfer-encoding"), [""; 0]);
    assert_eq!(seen.body, "amount=12");
}

#[tokio::test]
async fn the_headers_of_the_client_are_added() {
    let server = Server::start().await;
    let headers = [("x-tenant".parse().unwrap(), "blue".parse().unwrap())];
    let client = builder()
        .default_headers(headers.into_iter().collect())
        .build()
        .unwrap();
    let request = client.get(server.url("/seen")).build().unwrap();

    let response = stack(&client).oneshot(request).await.unwrap();

    assert_eq!(Seen::of(response).await.all("x-tenant"), ["blue"]);
}

#[tokio::test]
async fn a_request_without_a_body_declares_none() {
    let server = Server::start().await;

    for wrapped in [false, true] {
        let client = client();
        let request = client.get(server.url("/seen")).build().unwrap();
        let response = if wrapped {
            let layer = ReqwestLayer::new(layer_fn(Wrapping));
            layer.layer(client).oneshot(request).await
        } else {
            stack(&client).oneshot(request).await
        };

        let seen = Seen::of(response.unwrap()).await;
        assert_eq!(seen.line, "GET /seen HTTP/1.1");
        assert_eq!(seen.all("content-length"), [""; 0]);
        assert_eq!(seen.all("transfer-encoding"), [""; 0]);
        assert_eq!(seen.body, "");
    }
}

#[tokio::test]
async fn a_body_that_has_ended_is_none_for_what_is_beneath() {
    let beneath = tower::service_fn(|request: reqwest::Request| {
        assert!(request.body().is_none());
        ready(Ok::<_, reqwest::Error>(reqwest::Response::from(
            Response::new(""),
        )))
    });
    let request = Request::get("http://a.example/")
        .body(Empty::<Bytes>::new())
        .unwrap();

    let response = ReqwestService::new(beneath).oneshot(request).await;

    assert_eq!(response.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn the_version_of_a_request_survives() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .get(server.url("/seen"))
        .version(Version::HTTP_10)
        .build()
        .unwrap();

    let response = stack(&client).oneshot(request).await.unwrap();

    assert_eq!(response.version(), Version::HTTP_10);
    assert_eq!(Seen::of(response).await.line, "GET /seen HTTP/1.0");
}

#[tokio::test]
async fn the_timeout_of_a_request_survives() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .get(server.url("/never"))
        .timeout(SHORT)
        .build()
        .unwrap();

    let error = within(stack(&client).oneshot(request)).await.unwrap_err();

    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(error.url().unwrap().path(), "/never");
}

#[tokio::test]
async fn the_timeout_of_a_request_goes_on_while_the_response_is_read() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .get(server.url("/stalls"))
        .timeout(SHORT)
        .build()
        .unwrap();

    let mut response = stack(&client).oneshot(request).await.unwrap();

    assert_eq!(response.chunk().await.unwrap().unwrap(), "head");
    let error = within(response.chunk()).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
}

#[tokio::test]
async fn the_timeout_of_a_request_starts_anew_with_each_attempt() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .get(server.url("/never"))
        .timeout(SHORT)
        .build()
        .unwrap();
    let layer = ReqwestLayer::new(layer_fn(Twice));
    let start = Instant::now();

    let error = within(layer.layer(client).oneshot(request))
        .await
        .unwrap_err();

    assert!(error.is_timeout(), "{error:?}");
    assert!(start.elapsed() >= 2 * SHORT);
}

#[tokio::test]
async fn a_response_keeps_what_the_client_knows_of_it() {
    let server = Server::start().await;
    let client = client();
    let url = server.url("/teapot?milk=no");
    let request = client.get(url.clone()).build().unwrap();

    let response = stack(&client).oneshot(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(response.version(), Version::HTTP_11);
    assert_eq!(response.headers()["x-pot"], "brown");
    assert_eq!(*response.url(), url);
    assert_eq!(response.remote_addr(), Some(server.address));
    assert_eq!(response.content_length(), Some(5));
    assert_eq!(response.text().await.unwrap(), "steep");
}

#[tokio::test]
async fn a_response_of_the_service_converts_back_with_its_url() {
    let server = Server::start().await;
    let url = server.url("/teapot");
    let request = Request::get(url.as_str()).body(Full::<Bytes>::default());

    let response = ReqwestService::new(client()).oneshot(request.unwrap());
    let response = reqwest::Response::from(response.await.unwrap());

    assert_eq!(*response.url(), url);
    assert_eq!(response.remote_addr(), Some(server.address));
}

#[tokio::test]
async fn the_url_of_a_response_is_that_of_the_last_hop() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .post(server.url("/moved"))
        .body("amount=12")
        .build()
        .unwrap();

    let response = stack(&client).oneshot(request).await.unwrap();

    assert_eq!(*response.url(), server.url("/seen"));
    let seen = Seen::of(response).await;
    assert_eq!(seen.line, "POST /seen HTTP/1.1");
    assert_eq!(seen.body, "amount=12");
}

#[tokio::test]
async fn a_redirect_that_keeps_a_wrapped_body_is_the_response() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .post(server.url("/moved"))
        .body("amount=12")
        .build()
        .unwrap();
    let layer = ReqwestLayer::new(layer_fn(Wrapping));

    let response = layer.layer(client).oneshot(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(*response.url(), server.url("/moved"));
}

#[tokio::test]
async fn a_body_of_unknown_length_is_streamed_with_its_trailers() {
    let server = Server::start().await;
    let trailers = [("x-sum".parse().unwrap(), "7".parse().unwrap())];
    let body = Frames::ended([
        Ok::<_, Infallible>(Frame::data("amount".into())),
        Ok(Frame::data("=12".into())),
        Ok(Frame::trailers(trailers.into_iter().collect())),
    ]);
    let request = Request::post(server.url("/seen").as_str())
        .header(header::TRAILER, "x-sum")
        .body(body)
        .unwrap();

    let response = ReqwestService::new(client()).oneshot(request).await;

    let seen = Seen::of(reqwest::Response::from(response.unwrap())).await;
    assert_eq!(seen.all("transfer-encoding"), ["chunked"]);
    assert_eq!(seen.all("content-length"), [""; 0]);
    assert_eq!(seen.body, "amount=12");
    assert_eq!(seen.trailers, ["x-sum: 7"]);
}

#[tokio::test]
async fn a_body_that_is_not_sync_is_sent_with_its_length() {
    let server = Server::start().await;
    let body = NotSync {
        body: Full::new(Bytes::from_static(b"amount=12")),
        polls: Cell::new(0),
    };
    let request = Request::post(server.url("/seen").as_str())
        .body(UnsyncBoxBody::new(body))
        .unwrap();

    let response = ReqwestService::new(client()).oneshot(request).await;

    let seen = Seen::of(reqwest::Response::from(response.unwrap())).await;
    assert_eq!(seen.all("content-length"), ["9"]);
    assert_eq!(seen.all("transfer-encoding"), [""; 0]);
    assert_eq!(seen.body, "amount=12");
}

#[tokio::test]
async fn the_error_of_a_body_is_the_cause_of_the_clients() {
    let server = Server::start().await;
    let request = Request::post(server.url("/seen").as_str())
        .body(Frames::ended([Ok(Frame::data("amount".into())), Err(Torn)]))
        .unwrap();

    let error = ReqwestService::new(client()).oneshot(request).await;

    let error = error.unwrap_err();
    assert!(causes(&error).any(|cause| cause.is::<Torn>()), "{error:?}");
}

#[tokio::test]
async fn a_layer_that_answers_by_itself_gives_its_own_response() {
    let client = client();
    let url = Url::parse("http://unreached.example/charges?a=1").unwrap();
    let request = client.post(url.clone()).body("x").build().unwrap();
    let layer = ReqwestLayer::new(layer_fn(Rejecting));

    let response = layer.layer(client).oneshot(request).await.unwrap();

    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(*response.url(), url);
    assert_eq!(response.remote_addr(), None);
    assert_eq!(
        response.extensions().get::<LocalRejection>(),
        Some(&LocalRejection::new(Code::InProgress))
    );
    assert_eq!(response.content_length(), Some(8));
    assert_eq!(response.text().await.unwrap(), "rejected");
}

#[tokio::test]
async fn a_mark_on_a_request_reaches_the_layers() {
    let server = Server::start().await;
    let client = client();
    let request = client
        .post(server.url("/seen"))
        .timeout(LONG)
        .body("x")
        .build()
        .unwrap();
    let mut request = Request::try_from(request).unwrap();
    request.extensions_mut().insert(IdempotentRequest);
    let request = reqwest::Request::try_from(request).unwrap();
    assert_eq!(request.timeout(), Some(&LONG));
    let layer = ServiceBuilder::new().map_request(|request: Request<reqwest::Body>| {
        let marked = request.extensions().get::<IdempotentRequest>().is_some();
        assert!(marked);
        request
    });

    let response = ReqwestLayer::new(layer).layer(client).oneshot(request);

    assert_eq!(response.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_failure_to_connect_comes_back_as_the_client_gives_it() {
    let address = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let client = client();
    let request = || client.get(format!("http://{address}/")).build().unwrap();

    let own = client.execute(request()).await.unwrap_err();
    let error = stack(&client).oneshot(request()).await.unwrap_err();

    assert!(error.is_connect(), "{error:?}");
    assert_eq!(format!("{error:?}"), format!("{own:?}"));
}

#[tokio::test]
async fn a_uri_that_reqwest_cannot_call_is_an_error_of_the_builder() {
    for uri in [
        "/charges",
        "*",
        "payments.example",
        "payments.example:80",
        "ftp://a.example/",
    ] {
        let request = Request::get(uri).body(Empty::<Bytes>::new()).unwrap();

        let error = ReqwestService::new(client()).oneshot(request).await;

        let error = error.expect_err(uri);
        assert!(error.is_builder(), "{uri}: {error:?}");
    }
}

#[tokio::test]
async fn a_uri_that_a_layer_made_relative_is_an_error_of_the_builder() {
    let client = client();
    let request = client.get("http://a.example/charges").build().unwrap();
    let layer = ServiceBuilder::new().map_request(|mut request: Request<reqwest::Body>| {
        *request.uri_mut() = "/charges".parse().unwrap();
        request
    });

    let error = ReqwestLayer::new(layer).layer(client).oneshot(request);

    let error = error.await.unwrap_err();
    assert!(error.is_builder(), "{error:?}");
}

#[tokio::test]
async fn a_url_that_is_no_uri_is_an_error_of_the_builder_that_names_it() {
    let url = Url::parse("http://{{host}}/charges").unwrap();
    let request = reqwest::Request::new(Method::GET, url.clone());

    let error = stack(&client()).oneshot(request).await.unwrap_err();

    assert!(error.is_builder(), "{error:?}");
    assert_eq!(error.url(), Some(&url));
}

#[tokio::test]
async fn an_error_of_another_type_passes_through_both_faces() {
    #[derive(Debug)]
    struct Overloaded;
    impl From<reqwest::Error> for Overloaded {
        fn from(error: reqwest::Error) -> Self {
            panic!("no request was refused: {error}")
        }
    }
    let beneath =
        tower::service_fn(|_: reqwest::Request| ready(Err::<reqwest::Response, _>(Overloaded)));
    let request = client().get("http://a.example/").build().unwrap();
    let stack = ReqwestLayer::new(Identity::new()).layer(beneath);

    let result: Result<_, Overloaded> = stack.oneshot(request).await;

    result.unwrap_err();
}

#[tokio::test]
async fn what_is_left_of_a_wrapped_body_is_known_before_and_after_each_frame() {
    let mut body = reqwest::Body::from_body(NotSync {
        body: Full::new(Bytes::from_static(b"charge")),
        polls: Cell::new(0),
    });

    assert_eq!(body.size_hint().exact(), Some(6));
    assert!(!body.is_end_stream());
    let frame = body.frame().await.unwrap().unwrap();

    assert_eq!(frame.into_data().unwrap(), "charge");
    assert_eq!(body.size_hint().exact(), Some(0));
    assert!(body.is_end_stream());
}

#[test]
fn a_body_that_reqwest_holds_in_memory_stays_in_memory() {
    let body = reqwest::Body::from_body(reqwest::Body::from("charge"));

    assert_eq!(body.as_bytes(), Some(b"charge".as_slice()));
}

#[test]
fn both_faces_are_ready_when_what_is_beneath_is() {
    let mut cx = Context::from_waker(Waker::noop());
    let request = PhantomData::<Request<Full<Bytes>>>;
    let mut closed = ReqwestStack::new(ReqwestService::new(Gate { open: false }));
    let mut open = ReqwestStack::new(ReqwestService::new(Gate { open: true }));

    assert!(closed.poll_ready(&mut cx).is_pending());
    assert!(poll_ready_for(request, closed.get_mut(), &mut cx).is_pending());
    assert!(open.poll_ready(&mut cx).is_ready());
    assert!(poll_ready_for(request, open.get_mut(), &mut cx).is_ready());
}

#[test]
fn the_stack_around_the_client_is_cloned_and_sent_and_shared_as_the_client_is() {
    fn check<T: Clone + Send + Sync + fmt::Debug + 'static>(_: &T) {}
    fn check_future<T: Send>(_: &T) {}
    let client = client();
    let mut stack = stack(&client);

    check(&stack);

    let request = client.get("http://a.example/").build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    check_future(&stack.call(request));
}
