//! retry R9.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use steadfast_http::{
    BoxError,
    body::{FromBody, ReplayBody},
};
use steadfast_retry::{RetryConfig, RetryLayer, RetryOutcome, StoppedBy};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tower::{Layer, ServiceExt, service_fn};

use crate::support::{
    Answer, Fault, Flow, Piece, Script, Step, Unsized, answer, call, get, grpc, marked, post,
    stopped_by, trailers_only, waiting,
};

const ORDER: &str = "ten of it.";

fn layer(config: RetryConfig) -> RetryLayer {
    RetryLayer::http().with_config(config).unwrap()
}

fn put<B>(body: B) -> Request<B> {
    Request::put("/orders/1").body(body).unwrap()
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("checksum", "1234".parse().unwrap());
    trailers
}

/// Every way to cut a text into pieces.
fn chunkings(text: &'static str) -> impl Iterator<Item = Vec<Piece>> {
    let cuts = text.len() - 1;
    (0..1_usize << cuts).map(move |cut| {
        let mut pieces = Vec::new();
        let mut start = 0;
        for end in 1..=text.len() {
            if end == text.len() || cut & 1 << (end - 1) != 0 {
                pieces.push(Piece::text(&text[start..end]));
                start = end;
            }
        }
        pieces
    })
}

#[tokio::test(start_paused = true)]
async fn every_attempt_gets_the_same_bytes_and_trailers_however_they_were_cut() {
    let layer = layer(waiting(0)).without_budget();
    for (number, mut pieces) in chunkings(ORDER).enumerate() {
        let has_trailers = number % 2 == 1;
        if has_trailers {
            pieces.push(Piece::Trailers(trailers()));
        }
        let flow = Flow::new(pieces);
        let flow = if number % 3 == 0 {
            flow
        } else {
            flow.declaring(ORDER.len() as u64)
        };
        let script = Script::new([Step::Answer(answer(503))]);

        call(&layer, &script, put(flow)).await.unwrap();

        let seen = script.seen();
        assert_eq!(seen.len(), 3);
        for seen in seen {
            assert_eq!(seen.body.as_deref(), Some(ORDER.as_bytes()));
            assert_eq!(seen.trailers, has_trailers.then(trailers));
        }
    }
}

/// A body type that can hold any other, such as tonic's and axum's.
struct Any(UnsyncBoxBody<Bytes, BoxError>);

impl FromBody for Any {
    fn from_body<T>(body: T) -> Self
    where
        T: Body<Data = Bytes> + Send + 'static,
        T::Error: Into<BoxError>,
    {
        Self(body.map_err(Into::into).boxed_unsync())
    }
}

impl Body for Any {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_takes_only_its_own_body_gets_the_same_bytes_and_trailers() {
    let layer = layer(waiting(0)).with_same_body();
    let pieces = [
        Piece::text("ten "),
        Piece::Pause(Duration::from_millis(5)),
        Piece::text("of it."),
        Piece::Trailers(trailers()),
    ];
    let hints = Arc::new(Mutex::new(Vec::new()));
    let script = Script::new([Step::Answer(answer(503))]);
    let service = {
        let (script, hints) = (script.clone(), Arc::clone(&hints));
        service_fn(move |request: Request<Any>| {
            hints
                .lock()
                .unwrap()
                .push(request.body().size_hint().exact());
            script.clone().oneshot(request)
        })
    };

    let flow = Flow::new(pieces).declaring(ORDER.len() as u64);
    let request = put(Any::from_body(flow));
    layer.layer(service).oneshot(request).await.unwrap();

    assert_eq!(*hints.lock().unwrap(), [Some(ORDER.len() as u64); 3]);
    for seen in script.seen() {
        assert_eq!(seen.body.as_deref(), Some(ORDER.as_bytes()));
        assert_eq!(seen.trailers, Some(trailers()));
    }
}

/// What an attempt can know of its body before it reads it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Before {
    lower: u64,
    upper: Option<u64>,
    ends: bool,
}

#[tokio::test(start_paused = true)]
async fn every_attempt_is_told_the_same_size() {
    let knowing = |lower, upper| Before {
        lower,
        upper,
        ends: false,
    };
    for (flow, expected) in [
        (
            Flow::new([Piece::text(ORDER)]).declaring(10),
            knowing(10, Some(10)),
        ),
        (Flow::new([Piece::text(ORDER)]), knowing(0, None)),
        (
            Flow::new([]).declaring(0),
            Before {
                ends: true,
                ..knowing(0, Some(0))
            },
        ),
    ] {
        let told = Arc::new(Mutex::new(Vec::new()));
        let service = {
            let told = Arc::clone(&told);
            service_fn(move |request: Request<ReplayBody<Flow>>| {
                let told = Arc::clone(&told);
                async move {
                    let body = request.into_body();
                    let hint = body.size_hint();
                    told.lock().unwrap().push(Before {
                        lower: hint.lower(),
                        upper: hint.upper(),
                        ends: body.is_end_stream(),
                    });
                    body.collect().await.unwrap();
                    Ok::<_, Infallible>(answer(503))
                }
            })
        };

        layer(waiting(0))
            .layer(service)
            .oneshot(put(flow))
            .await
            .unwrap();

        assert_eq!(*told.lock().unwrap(), [expected; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_size_that_an_attempt_is_told_shrinks_as_it_reads() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let told = Arc::clone(&told);
        service_fn(move |request: Request<ReplayBody<Flow>>| {
            let told = Arc::clone(&told);
            async move {
                let mut body = request.into_body();
                let mut sizes = vec![body.size_hint().exact()];
                while let Some(frame) = body.frame().await {
                    frame.unwrap();
                    sizes.push(body.size_hint().exact());
                }
                told.lock().unwrap().push(sizes);
                Ok::<_, Infallible>(answer(503))
            }
        })
    };

    let flow = Flow::new([Piece::text("ten "), Piece::text("of it.")]).declaring(10);
    layer(waiting(0))
        .layer(service)
        .oneshot(put(flow))
        .await
        .unwrap();

    let expected = vec![Some(10), Some(6), Some(0)];
    assert_eq!(*told.lock().unwrap(), vec![expected; 3]);
}

const LIMIT: usize = RetryConfig::DEFAULT_REPLAY_LIMIT;

fn large(bytes: usize) -> Bytes {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[tokio::test(start_paused = true)]
async fn a_body_of_64_kib_is_sent_again_and_a_larger_one_goes_on_undisturbed() {
    for (bytes, calls) in [(LIMIT, 3), (LIMIT + 1, 1)] {
        let whole = large(bytes);

        let declared = Script::new([Step::Answer(answer(503))]);
        let request = put(Full::new(whole.clone()));
        let response = call(&layer(waiting(0)), &declared, request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let expected = match calls {
            1 => StoppedBy::Body,
            _ => StoppedBy::Attempts,
        };
        assert_eq!(stopped_by(&response), Some(expected));

        let undeclared = Script::new([Step::Answer(answer(503))]);
        let request = put(Unsized(Full::new(whole.clone())));
        let response = call(&layer(waiting(0)), &undeclared, request)
            .await
            .unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let expected = if calls == 3 {
            StoppedBy::Attempts
        } else {
            StoppedBy::Body
        };
        assert_eq!(stopped_by(&response), Some(expected));

        for script in [declared, undeclared] {
            assert_eq!(script.calls(), calls);
            for seen in script.seen() {
                assert!(seen.body.as_ref() == Some(&whole), "not every byte came");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_in_many_frames_arrives_whole() {
    let whole = large(3 * LIMIT);
    let pieces = whole.chunks(1_000).map(Bytes::copy_from_slice);
    let flow = Flow::new(pieces.map(Piece::Data));
    let script = Script::new([Step::Answer(answer(503))]);

    let response = call(&layer(waiting(0)), &script, put(flow)).await.unwrap();

    assert_eq!(stopped_by(&response), Some(StoppedBy::Body));
    let [seen] = &script.seen()[..] else {
        panic!("it was sent {} times", script.calls());
    };
    assert!(seen.body.as_ref() == Some(&whole), "not every byte came");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_1024_frames_is_sent_again_and_one_of_more_is_not() {
    for (frames, calls) in [(1_024, 3), (1_025, 1)] {
        let script = Script::new([Step::Answer(answer(503))]);
        let flow = Flow::new(std::iter::repeat_n(Piece::text("x"), frames));

        call(&layer(waiting(0)), &script, put(flow)).await.unwrap();

        assert_eq!(script.calls(), calls);
        for seen in script.seen() {
            assert_eq!(seen.body.unwrap().len(), frames);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_finds_the_pool_empty_goes_on_undisturbed_and_is_not_sent_again() {
    let config = waiting(0).with_replay_limit(10).with_replay_pool(15);
    let layer = layer(config);
    let held = Script::new([Step::After(Duration::from_secs(1), answer(200))]);
    let holder = layer.layer(held.clone()).oneshot(put(Full::from(ORDER)));
    let mut holder = Box::pin(holder);
    timeout(Duration::from_millis(1), &mut holder)
        .await
        .unwrap_err();
    assert!(held.seen()[0].body.is_some());

    let script = Script::new([Step::Answer(answer(503))]);
    let response = call(&layer, &script, put(Full::from(ORDER))).await.unwrap();
    assert_eq!(script.calls(), 1);
    assert_eq!(script.seen()[0].body.as_deref(), Some(ORDER.as_bytes()));
    assert_eq!(stopped_by(&response), Some(StoppedBy::Body));
    let small = Script::new([Step::Answer(answer(503))]);
    call(&layer, &small, put(Full::from("five.")))
        .await
        .unwrap();
    assert_eq!(small.calls(), 3, "there is room for it");

    holder.await.unwrap();
    let script = Script::new([Step::Answer(answer(503))]);
    call(&layer, &script, put(Full::from(ORDER))).await.unwrap();
    assert_eq!(script.calls(), 3, "the pool is full again");
}

#[tokio::test(start_paused = true)]
async fn all_services_of_a_layer_have_one_pool_and_a_setter_makes_a_new_one() {
    let config = waiting(0).with_replay_limit(10).with_replay_pool(10);
    let layer = layer(config);
    let held = Script::new([Step::Hang]);
    let reading = service_fn({
        let held = held.clone();
        move |request: Request<ReplayBody<Full<Bytes>>>| {
            let held = held.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                held.oneshot(Request::from_parts(head, Full::new(body)))
                    .await
            }
        }
    });
    let mut holder = Box::pin(layer.layer(reading).oneshot(put(Full::from(ORDER))));
    timeout(Duration::from_millis(1), &mut holder)
        .await
        .unwrap_err();
    assert_eq!(held.calls(), 1);

    for (layer, calls) in [(layer.clone(), 1), (layer.clone().with_name("another"), 3)] {
        let script = Script::new([Step::Answer(answer(503))]);
        call(&layer, &script, put(Full::from(ORDER))).await.unwrap();
        assert_eq!(script.calls(), calls);
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_frees_what_was_kept_though_its_body_still_comes() {
    let layer = layer(waiting(0).with_replay_limit(10).with_replay_pool(10));
    let streaming = layer.layer(service_fn(|request: Request<ReplayBody<_>>| async {
        let _: http_body_util::Collected<Bytes> = request.into_body().collect().await.unwrap();
        Ok::<_, Infallible>(Response::new(Flow::new([Piece::Stall])))
    }));
    let response = streaming
        .oneshot(put(Full::<Bytes>::from(ORDER)))
        .await
        .unwrap();

    let script = Script::new([Step::Answer(answer(503))]);
    call(&layer, &script, put(Full::from(ORDER))).await.unwrap();

    assert_eq!(script.calls(), 3);
    drop(response);
}

/// What is left of a body, while somebody goes on to read it.
type Sending = JoinHandle<Result<Bytes, BoxError>>;

/// All of a body, and its trailers.
type Whole = (Bytes, Option<HeaderMap>);

/// A service that answers 503 after it has read so many frames, while somebody goes on sending what is left of the body; and in the
/// end reads all of it.
#[derive(Clone, Default)]
struct Early {
    after: usize,
    attempts: Arc<AtomicUsize>,
    left: Arc<Mutex<Vec<Sending>>>,
    whole: Arc<Mutex<Option<Whole>>>,
}

impl Early {
    async fn answer(self, request: Request<ReplayBody<Flow>>) -> Result<Answer, BoxError> {
        let mut body = request.into_body();
        if self.attempts.fetch_add(1, Ordering::SeqCst) == 2 {
            let body = body.collect().await?;
            let trailers = body.trailers().cloned();
            *self.whole.lock().unwrap() = Some((body.to_bytes(), trailers));
            return Ok(answer(200));
        }
        for _ in 0..self.after {
            body.frame().await.unwrap()?;
        }
        let left = tokio::spawn(async { Ok(body.collect().await?.to_bytes()) });
        self.left.lock().unwrap().push(left);
        Ok(answer(503))
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_early_response_a_further_attempt_gets_every_byte_and_the_earlier_one_fails() {
    let pause = || Piece::Pause(Duration::from_millis(100));
    for after in 0..=2 {
        let early = Early {
            after,
            ..Early::default()
        };
        let service = {
            let early = early.clone();
            let service = service_fn(move |request| early.clone().answer(request));
            layer(waiting(30)).with_boxed_errors().layer(service)
        };
        let pieces = [Piece::text("ten "), pause(), Piece::text("of "), pause()];
        let last = [Piece::text("it."), Piece::Trailers(trailers())];
        let flow = Flow::new(pieces.into_iter().chain(last));
        let watch = flow.watch();

        let response = service.oneshot(put(flow)).await;

        assert_eq!(response.unwrap().status(), StatusCode::OK);
        assert_eq!(early.attempts.load(Ordering::SeqCst), 3);
        let whole = early.whole.lock().unwrap().take();
        assert_eq!(whole, Some((Bytes::from(ORDER), Some(trailers()))));
        assert_eq!(watch.yielded(), 4, "each frame was read once");
        let left = std::mem::take(&mut *early.left.lock().unwrap());
        assert_eq!(left.len(), 2);
        for left in left {
            let error = left.await.unwrap().unwrap_err();
            let message = "request body was superseded by that of a further attempt";
            assert_eq!(error.to_string(), message);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_success_leaves_the_rest_of_the_body_to_its_attempt() {
    let left = Arc::new(Mutex::new(None));
    let service = {
        let left = Arc::clone(&left);
        layer(waiting(30)).layer(service_fn(move |request: Request<ReplayBody<Flow>>| {
            let body = request.into_body();
            let reading = tokio::spawn(async { Ok(body.collect().await?.to_bytes()) });
            *left.lock().unwrap() = Some(reading);
            async { Ok::<_, Infallible>(answer(200)) }
        }))
    };
    let pause = Piece::Pause(Duration::from_secs(100));
    let flow = Flow::new([Piece::text("ten "), pause, Piece::text("of it.")]);

    let response = service.oneshot(put(flow)).await.unwrap();

    assert_eq!(response.status(), StatusCode::OK);
    let left = left.lock().unwrap().take().unwrap();
    let received: Result<_, BoxError> = left.await.unwrap();
    assert_eq!(received.unwrap(), ORDER);
}

#[tokio::test(start_paused = true)]
async fn a_body_is_not_read_before_an_attempt_asks_for_it() {
    let script = Script::new([Step::Early(answer(503))]);
    let flow = Flow::new([Piece::text(ORDER)]);
    let watch = flow.watch();

    let response = call(&layer(waiting(0)), &script, put(flow)).await.unwrap();

    assert_eq!(script.calls(), 3);
    assert_eq!(watch.yielded(), 0);
    assert!(watch.is_dropped(), "nobody can ask any more");
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_fails_its_attempt_and_is_not_sent_again() {
    for answers in [true, false] {
        let attempts = Arc::new(AtomicUsize::new(0));
        let service = {
            let attempts = Arc::clone(&attempts);
            service_fn(move |request: Request<ReplayBody<Flow>>| {
                attempts.fetch_add(1, Ordering::SeqCst);
                async move {
                    let error = request.into_body().collect().await.unwrap_err();
                    assert_eq!(error.to_string(), "the flow broke");
                    if answers {
                        Ok(answer(503))
                    } else {
                        Err(Fault::Reset)
                    }
                }
            })
        };
        let flow = Flow::new([Piece::text("ten "), Piece::Fail]);

        let result = layer(waiting(0)).layer(service).oneshot(put(flow)).await;

        assert_eq!(attempts.load(Ordering::SeqCst), 1);
        match result {
            Ok(response) => {
                let outcome = RetryOutcome::of(response.extensions()).unwrap();
                assert_eq!(outcome.stopped_by(), StoppedBy::Body);
            }
            Err(error) => assert_eq!(error, Fault::Reset),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_gets_its_response_and_goes_on() {
    // Every message comes back.
    let echo = || {
        service_fn(|request: Request<ReplayBody<Flow>>| async {
            Ok::<_, Infallible>(Response::new(request.into_body()))
        })
    };
    let second = Duration::from_secs(1);
    let messages = || (0..100).flat_map(move |_| [Piece::text("m"), Piece::Pause(second)]);
    let started = Instant::now();

    for layer in [layer(waiting(0)), grpc()] {
        let flow = Flow::new(messages().chain([Piece::Stall]));
        let request = marked(put(flow));
        let response = layer.layer(echo()).oneshot(request).await.unwrap();
        let mut body = response.into_body();
        for _ in 0..100 {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "m");
        }
        timeout(second * 60, body.frame()).await.unwrap_err();
    }
    assert!(started.elapsed() >= second * 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_larger_than_what_is_kept_goes_on_after_an_early_response() {
    let echo = service_fn(|request: Request<ReplayBody<Flow>>| async {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let kib = Piece::Data(large(1_024));
    let flow = Flow::new(std::iter::repeat_n(kib, 5_000));

    let response = grpc().layer(echo).oneshot(marked(put(flow))).await.unwrap();

    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body.len(), 5_000 * 1_024);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_never_ends_is_sent_again_while_what_it_sent_is_kept() {
    let script = Script::new([
        Step::Early(trailers_only(14)),
        Step::Early(trailers_only(14)),
        Step::Early(trailers_only(0)),
    ]);
    let layer = grpc().with_config(waiting(10)).unwrap();
    let flow = Flow::new([Piece::text("a message"), Piece::Stall]);

    call(&layer, &script, marked(put(flow))).await.unwrap();

    assert_eq!(script.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_of_a_request_without_a_body_says_so() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let service = {
        let ends = Arc::clone(&ends);
        service_fn(move |request: Request<ReplayBody<Full<Bytes>>>| {
            let body = request.into_body();
            let end = (body.is_end_stream(), body.size_hint().exact());
            ends.lock().unwrap().push(end);
            async { Ok::<_, Infallible>(answer(503)) }
        })
    };

    layer(waiting(0))
        .layer(service)
        .oneshot(get())
        .await
        .unwrap();

    assert_eq!(*ends.lock().unwrap(), [(true, Some(0)); 3]);
}

#[tokio::test(start_paused = true)]
async fn every_attempt_has_the_whole_head() {
    let script = Script::new([Step::Answer(answer(503))]);
    let mut request = marked(post("an order"));
    request
        .headers_mut()
        .append("x-tenant", "one".parse().unwrap());
    request
        .headers_mut()
        .append("x-tenant", "two".parse().unwrap());
    request.extensions_mut().insert("an extension");
    *request.version_mut() = http::Version::HTTP_2;

    call(&layer(waiting(0)), &script, request).await.unwrap();

    let seen = script.seen();
    assert_eq!(seen.len(), 3);
    for seen in &seen {
        assert_eq!(seen.head.method, http::Method::POST);
        assert_eq!(seen.head.uri, "http://destination.test/things");
        assert_eq!(seen.head.version, http::Version::HTTP_2);
        let tenants: Vec<_> = seen.head.headers.get_all("x-tenant").iter().collect();
        assert_eq!(tenants, ["one", "two"]);
        assert_eq!(seen.head.extensions.get(), Some(&"an extension"));
    }
}
