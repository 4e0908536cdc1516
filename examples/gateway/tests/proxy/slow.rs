//! Slow clients cost nobody but themselves.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, channel::Channel};
use steadfast::http::BoxError;
use tokio::time::sleep;

use crate::support::{
    Connection, Gateway, Protocol, Reply, Upstream, empty, eventually, says, text, within,
};

const UPSTREAMS: [&[&str]; 2] = [&[], &["--upstream-http2"]];

#[derive(Clone, Copy, Debug)]
enum Pace {
    Stops,
    Trickles,
}

#[tokio::test]
async fn a_slow_upload_is_the_clients_fault() {
    for (client, pace) in [
        (Protocol::Http1, Pace::Stops),
        (Protocol::Http1, Pace::Trickles),
        (Protocol::Http2, Pace::Stops),
        (Protocol::Http2, Pace::Trickles),
    ] {
        for arguments in UPSTREAMS {
            let upstream = Upstream::saying("answer").await;
            let limits = [arguments, &["--attempt-timeout", "800ms"]].concat();
            let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

            for _ in 0..5 {
                let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
                let upload = tokio::spawn(async move {
                    while sender.send_data(Bytes::from_static(b"x")).await.is_ok() {
                        match pace {
                            Pace::Stops => pending().await,
                            Pace::Trickles => sleep(Duration::from_millis(40)).await,
                        }
                    }
                });
                let mut connection = Connection::open(client, gateway.address).await;
                let request = empty("PUT", "/").map(|_| body.boxed_unsync());
                let answer = connection.send(request).await.unwrap();
                upload.abort();

                let case = format!("{client:?} {pace:?} {arguments:?}");
                let refusal = (408, "body-timeout".to_owned());
                assert_eq!(answer.problem(), refusal, "{case}");
            }

            let breaker = gateway.breaker(&upstream.url()).await;
            assert_eq!(breaker["failures_in_a_row"], 0, "nobody else's fault");
            assert_eq!(gateway.get("/").await.text(), "answer");
        }
    }
}

#[tokio::test]
async fn an_upstream_that_takes_nothing_is_to_blame_itself() {
    for arguments in UPSTREAMS {
        let upstream = Upstream::serving(async |request| {
            let reply: Reply = pending().await;
            drop(request);
            reply
        })
        .await;
        let limits = ["--attempt-timeout", "800ms", "--attempts", "1"];
        let limits = [arguments, &limits].concat();
        let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

        let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
        let upload = text("PUT", "/", vec![7; 9 << 20]);
        let answer = connection.send(upload).await.unwrap();

        assert_eq!(answer.problem(), (504, "attempt-timeout".to_owned()));
        let breaker = gateway.breaker(&upstream.url()).await;
        assert_eq!(breaker["failures_in_a_row"], 1, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_client_takes_its_time_once_the_answer_has_begun() {
    let upstream = Upstream::serving(async |request| {
        let echo = request.into_body().map_err(Into::into);
        Some(Response::new(echo.boxed_unsync()))
    })
    .await;
    let limits = ["--upstream-http2", "--attempt-timeout", "300ms"];
    let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;
    let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
    let request = empty("POST", "/").map(|_| body.boxed_unsync());

    let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
    let mut answer = connection.begin(request).await.unwrap().into_body();

    for _ in 0..2 {
        sleep(Duration::from_millis(400)).await;
        sender.send_data(Bytes::from_static(b"word")).await.unwrap();
        let frame = within(answer.frame()).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "word");
    }
}

/// What goes out of an upstream without end.
#[derive(Clone, Default)]
struct Endless {
    sent: Arc<AtomicUsize>,
    given_up: Arc<AtomicUsize>,
}

impl Endless {
    /// Answers `/endless` so, and all else with a word.
    async fn upstream(&self) -> Upstream {
        let endless = self.clone();
        Upstream::serving(move |request| {
            let is_endless = request.uri().path() == "/endless";
            let endless = endless.clone();
            async move {
                match is_endless {
                    true => endless.answer(),
                    false => says(200, "answer"),
                }
            }
        })
        .await
    }

    fn answer(self) -> Reply {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        tokio::spawn(async move {
            let part = Bytes::from_static(&[7; 16 << 10]);
            while sender.send_data(part.clone()).await.is_ok() {
                self.sent.fetch_add(1, Ordering::SeqCst);
            }
            self.given_up.fetch_add(1, Ordering::SeqCst);
        });
        Some(Response::new(body.boxed_unsync()))
    }
}

#[tokio::test]
async fn clients_that_do_not_read_hold_up_nobody_else() {
    let endless = Endless::default();
    let upstream = endless.upstream().await;
    let gateway = Gateway::with(&[&upstream.at("/")], &["--upstream-http2"]).await;

    // More than fit into the window of a connection that hyper asks for by itself.
    let mut stalled = Vec::new();
    for _ in 0..60 {
        let mut connection = Connection::open(Protocol::Http2, gateway.address).await;
        let answer = connection.begin(empty("GET", "/endless")).await.unwrap();
        stalled.push((connection, answer));
    }
    let mut before = usize::MAX;
    while before != endless.sent.load(Ordering::SeqCst) {
        before = endless.sent.load(Ordering::SeqCst);
        sleep(Duration::from_millis(300)).await;
    }

    assert_eq!(gateway.get("/").await.text(), "answer");
    assert_eq!(upstream.connections(), 1, "all share it");
    assert_eq!(endless.given_up.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn an_answer_that_is_not_read_is_given_up() {
    for client in Protocol::ALL {
        for arguments in UPSTREAMS {
            let endless = Endless::default();
            let upstream = endless.upstream().await;
            let limits = ["--pause-timeout", "500ms", "--idle-timeout", "500ms"];
            let limits = [arguments, &limits].concat();
            let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

            let mut connection = Connection::open(client, gateway.address).await;
            let answer = connection.begin(empty("GET", "/endless")).await.unwrap();

            eventually("the upstream is free again", || {
                endless.given_up.load(Ordering::SeqCst) == 1
            })
            .await;
            let read = within(answer.into_body().collect()).await;
            assert!(read.is_err(), "{client:?}: it does not look whole");
            eventually("its connection is closed", || connection.is_closed()).await;
        }
    }
}

/// hyper keeps a body that has ended until there is room for it.
#[tokio::test]
async fn an_answer_for_which_its_client_has_no_room_is_given_up() {
    let upstream = Upstream::saying("answer").await;
    let limits = ["--pause-timeout", "500ms", "--idle-timeout", "500ms"];
    let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

    let mut connection = Connection::open_without_room(gateway.address).await;
    let _answer = connection.begin(empty("GET", "/")).await.unwrap();

    eventually("its connection is closed", || connection.is_closed()).await;
}

#[tokio::test]
async fn an_answer_that_is_read_goes_on() {
    for client in Protocol::ALL {
        let (mut sender, body) = Channel::<Bytes, BoxError>::new(1);
        let body = std::sync::Mutex::new(Some(body.boxed_unsync()));
        let upstream = Upstream::serving(move |_| {
            let body = body.lock().unwrap().take();
            async move { body.map(Response::new) }
        })
        .await;
        let limits = ["--pause-timeout", "1s"];
        let gateway = Gateway::with(&[&upstream.at("/")], &limits).await;

        let mut connection = Connection::open(client, gateway.address).await;
        let answer = connection.begin(empty("GET", "/")).await.unwrap();
        let mut answer = answer.into_body();
        for _ in 0..8 {
            // Longer together than the limit, and alone shorter.
            sleep(Duration::from_millis(300)).await;
            sender.send_data(Bytes::from_static(b"part")).await.unwrap();
            let part = within(answer.frame()).await.unwrap().unwrap();
            assert_eq!(part.into_data().unwrap(), "part", "{client:?}");
        }
    }
}
