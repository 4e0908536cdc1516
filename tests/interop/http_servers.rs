//! Our layers, around two clients, before nginx: it limits, fails, hangs up, and has an upstream that does worse.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use steadfast::{
    circuit_breaker::{BreakerConfig, State},
    retry::RetryConfig,
};
use tokio::time::sleep;

use crate::{
    front::{Client, Make, get, is_rejected, keyed_post, post, put},
    nginx::{Nginx, Seen, statuses},
    program::eventually,
    upstream::{Got, Step, Upstream, nobody},
};

/// An nginx before an upstream, for one client.
struct Stage {
    nginx: Nginx,
    upstream: Upstream,
    client: Client,
}

impl Stage {
    async fn set(make: Make, steps: &[Step]) -> Self {
        let (upstream, address) = Upstream::play(steps).await;
        Self {
            nginx: Nginx::before(address).await,
            upstream,
            client: make.client(),
        }
    }
}

/// Each client by itself, all of them at once.
async fn with_each(test: impl AsyncFn(Make)) {
    join_all(Make::ALL.map(|make| test(make))).await;
}

#[track_caller]
fn assert_one_operation(got: &[Got], key: &str) {
    for each in got {
        assert_eq!(each.method, Method::POST);
        assert_eq!(each.headers["idempotency-key"], key);
        assert_eq!(each.body, "amount=5");
    }
}

const LIMITS: [(&str, u16); 2] = [("/limited/429/", 429), ("/limited/503/", 503)];

#[tokio::test]
async fn a_get_that_is_one_too_many_comes_again_when_it_was_told_to() {
    with_each(async |make| {
        for (path, limited) in LIMITS {
            let stage = Stage::set(make, &[]).await;
            let url = stage.nginx.url(path);

            assert_eq!(stage.client.status(get(&url)).await, 200);
            assert_eq!(stage.client.status(get(&url)).await, 200);

            let seen = stage.nginx.seen(3).await;
            assert_eq!(statuses(&seen), [200, limited.into(), 200], "{make:?}");
            assert!(
                seen[2].after(&seen[1]) >= Duration::from_secs(1),
                "{make:?}"
            );
            assert_eq!(stage.upstream.got().len(), 2, "{make:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_post_that_is_one_too_many_comes_again_only_with_a_key() {
    with_each(async |make| {
        for (path, limited) in LIMITS {
            let stage = Stage::set(make, &[]).await;
            let url = stage.nginx.url(path);
            assert_eq!(stage.client.status(keyed_post(&url, "k-1")).await, 200);

            let refused = stage.client.send(post(&url)).await.unwrap();
            let healed = stage.client.send(keyed_post(&url, "k-2")).await.unwrap();

            assert_eq!(refused.status(), limited, "{make:?}");
            assert_eq!(refused.headers()["retry-after"], "1", "{make:?}");
            assert_eq!(healed.status(), 200, "{make:?}");
            let seen = stage.nginx.seen(4).await;
            let limited = u64::from(limited);
            assert_eq!(statuses(&seen), [200, limited, limited, 200], "{make:?}");
            let keys: Vec<_> = seen.iter().map(Seen::key).collect();
            assert_eq!(keys, ["k-1", "", "k-2", "k-2"], "{make:?}");
            let got = stage.upstream.got();
            assert_eq!(got.len(), 2, "{make:?}");
            assert_one_operation(&got[1..], "k-2");
        }
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_is_down_opens_the_breaker_until_it_is_back() {
    with_each(async |make| {
        let port = nobody();
        let nginx = Nginx::before(port.local_addr().unwrap()).await;
        let open_for = Duration::from_secs(2);
        let open = BreakerConfig::default().with_open_for(open_for);
        let client = make.configured(RetryConfig::default(), open);
        let url = nginx.url("/");

        // Not repeated, and counted.
        assert_eq!(client.status(post(&url)).await, 502, "{make:?}");
        // Repeated, until that is all that it may be.
        assert_eq!(client.status(get(&url)).await, 502, "{make:?}");
        for request in [keyed_post(&url, "k"), get(&url), post(&url)] {
            assert!(
                is_rejected(&client.send(request).await.unwrap()),
                "{make:?}"
            );
        }

        let seen = nginx.seen(5).await;
        assert_eq!(statuses(&seen), [502; 5], "{make:?}");
        let keys: Vec<_> = seen.iter().map(Seen::key).collect();
        assert_eq!(keys, ["", "", "", "", "k"], "{make:?}");

        let upstream = Upstream::serve(port.listen(64).unwrap(), &[]);
        eventually("the end of the open time", async || {
            client.breaker.would_admit().then_some(())
        })
        .await;
        for _ in 0..3 {
            assert_eq!(client.status(get(&url)).await, 200, "{make:?}");
        }
        assert_eq!(client.breaker.state(), State::Closed, "{make:?}");
        assert_eq!(upstream.got().len(), 3, "{make:?}");
        let seen = nginx.seen(8).await;
        assert!(
            seen[5].after(&seen[4]) + Duration::from_millis(10) >= open_for,
            "{make:?}"
        );
    })
    .await;
}

#[tokio::test]
async fn a_server_that_says_when_it_is_back_is_left_alone_until_then() {
    with_each(async |make| {
        let nginx = Nginx::before(nobody().local_addr().unwrap()).await;
        let breaker = BreakerConfig::default()
            .with_consecutive_failures(1)
            .with_open_for(Duration::from_millis(50));
        let client = make.configured(RetryConfig::default(), breaker);
        let url = nginx.url("/maintenance/");

        // Its own retry would come after two seconds, to a breaker that has opened for longer.
        let first = client.send(post(&url)).await.unwrap();
        assert_eq!(first.status(), 503, "{make:?}");
        assert_eq!(first.headers()["retry-after"], "2", "{make:?}");
        assert_eq!(client.breaker.state(), State::Open, "{make:?}");
        let next = eventually("an answer of the server", async || {
            let answer = client.send(post(&url)).await.unwrap();
            (!is_rejected(&answer)).then_some(answer)
        })
        .await;

        assert_eq!(next.status(), 503, "{make:?}");
        let seen = nginx.seen(2).await;
        let after = seen[1].after(&seen[0]);
        assert!(after >= Duration::from_millis(1990), "{make:?}: {after:?}");
    })
    .await;
}

#[tokio::test]
async fn what_took_the_upstream_too_long_is_repeated_only_where_it_may_be() {
    with_each(async |make| {
        let slow = async || {
            let stage = Stage::set(make, &[Step::Never]).await;
            let url = stage.nginx.url("/slow/");
            (stage, url)
        };

        let (stage, url) = slow().await;
        assert_eq!(stage.client.status(get(&url)).await, 200, "{make:?}");
        assert_eq!(statuses(&stage.nginx.seen(2).await), [504, 200], "{make:?}");

        let (stage, url) = slow().await;
        assert_eq!(stage.client.status(post(&url)).await, 504, "{make:?}");
        stage.nginx.seen(1).await;
        assert_eq!(stage.upstream.got().len(), 1, "{make:?}");

        let (stage, url) = slow().await;
        let keyed = keyed_post(&url, "k");
        assert_eq!(stage.client.status(keyed).await, 200, "{make:?}");
        assert_eq!(statuses(&stage.nginx.seen(2).await), [504, 200], "{make:?}");
        let got = stage.upstream.got();
        assert_eq!(got.len(), 2, "{make:?}");
        assert_one_operation(&got, "k");
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_is_closed_without_an_answer_is_healed_only_where_it_may_be() {
    with_each(async |make| {
        let stage = Stage::set(make, &[]).await;
        let url = stage.nginx.url("/gone/once/");

        assert_eq!(stage.client.status(get(&url)).await, 200, "{make:?}");
        assert_eq!(statuses(&stage.nginx.seen(2).await), [444, 200], "{make:?}");
        stage.client.send(post(&url)).await.unwrap_err();
        let seen = stage.nginx.seen(3).await;
        assert_eq!(statuses(&seen), [444, 200, 444], "{make:?}");
        assert_eq!(stage.client.status(keyed_post(&url, "k")).await, 200);

        let seen = stage.nginx.seen(5).await;
        assert_eq!(statuses(&seen), [444, 200, 444, 444, 200], "{make:?}");
        let got = stage.upstream.got();
        assert_eq!(got.len(), 2, "{make:?}");
        assert_one_operation(&got[1..], "k");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_lost_on_its_way_is_asked_for_again_only_with_a_key() {
    with_each(async |make| {
        let stage = Stage::set(make, &[Step::Answer(500)]).await;
        let lost = stage.nginx.url("/lost/");

        stage.client.send(post(&lost)).await.unwrap_err();

        assert_eq!(statuses(&stage.nginx.seen(1).await), [444], "{make:?}");
        assert_eq!(stage.upstream.got().len(), 1, "it was processed, once");

        let stage = Stage::set(make, &[Step::Answer(500)]).await;
        let lost = stage.nginx.url("/lost/");

        let answer = stage.client.status(keyed_post(&lost, "k")).await;

        assert_eq!(answer, 200, "{make:?}");
        assert_eq!(statuses(&stage.nginx.seen(2).await), [444, 200], "{make:?}");
        let got = stage.upstream.got();
        assert_eq!(got.len(), 2, "{make:?}");
        assert_one_operation(&got, "k");
    })
    .await;
}

#[tokio::test]
async fn a_connection_for_one_request_costs_no_retry() {
    with_each(async |make| {
        let stage = Stage::set(make, &[]).await;
        let url = stage.nginx.url("/single/");

        for _ in 0..20 {
            assert_eq!(stage.client.status(post(&url)).await, 200, "{make:?}");
        }

        let seen = stage.nginx.seen(20).await;
        let connections: HashSet<_> = seen.iter().map(Seen::connection).collect();
        assert_eq!(connections.len(), 20, "{make:?}");
        assert_eq!(stage.upstream.got().len(), 20, "{make:?}");
    })
    .await;
}

/// What a client may send into a connection that the server closes at that moment.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Get,
    Post,
    KeyedPost,
}

/// What was asked for, how, and whether there was an answer.
type Told = (String, Kind, bool);

/// One request after the other, with pauses around the time for which nginx keeps an idle connection; after some there is none.
async fn with_pauses(client: &Client, nginx: &Nginx, lane: &str) -> Vec<Told> {
    let mut told = Vec::new();
    for round in 0..45 {
        let kind = [Kind::Get, Kind::Post, Kind::KeyedPost][round % 3];
        let path = format!("/{lane}/{round}");
        let url = nginx.url(&path);
        let request = match kind {
            Kind::Get => get(&url),
            Kind::Post => post(&url),
            Kind::KeyedPost => keyed_post(&url, &path),
        };
        told.push((path, kind, client.send(request).await.is_ok()));
        if round % 10 != 0 {
            sleep(Duration::from_millis(15 + round as u64 % 10)).await;
        }
    }
    told
}

#[tokio::test]
async fn requests_that_meet_the_end_of_an_idle_connection_are_healed_or_told_and_never_doubled() {
    const LANES: usize = 8;
    with_each(async |make| {
        let (upstream, address) = Upstream::play(&[]).await;
        let nginx = Nginx::with_keepalive(address, "20ms").await;
        let breaker = BreakerConfig::default().with_consecutive_failures(1000);
        // A client for each lane, so that each has one connection to lose.
        let clients: Vec<_> = (0..LANES)
            .map(|_| make.configured(RetryConfig::default(), breaker.without_failure_rate()))
            .collect();

        let mut passes = 0..;
        eventually(
            "the loss of a connection, and the use of one again",
            async || {
                let pass = passes.next().unwrap();
                let lanes = clients.iter().enumerate().map(async |(lane, client)| {
                    with_pauses(client, &nginx, &format!("{pass}/{lane}")).await
                });
                let told = join_all(lanes).await.concat();

                let mut runs: HashMap<String, usize> = HashMap::new();
                for got in upstream.got() {
                    *runs.entry(got.path).or_default() += 1;
                }
                for (path, kind, is_ok) in told {
                    let runs = runs.get(&path).copied().unwrap_or(0);
                    let is_right = match kind {
                        Kind::Get | Kind::KeyedPost => is_ok && runs >= 1,
                        Kind::Post => runs == 1 || !is_ok && runs == 0,
                    };
                    assert!(is_right, "{make:?} {kind:?} {path}: {runs}");
                }
                let total = runs.values().sum();
                let seen = nginx.seen(total).await;
                let connections: HashSet<_> = seen.iter().map(Seen::connection).collect();
                let lost_and_used_again = LANES < connections.len() && connections.len() < total;
                lost_and_used_again.then_some(())
            },
        )
        .await;
    })
    .await;
}

/// A MiB in which each place can be told from all others nearby.
fn large() -> Bytes {
    (0..1 << 18_u32)
        .flat_map(|number: u32| number.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

#[tokio::test]
async fn a_large_body_is_sent_again_byte_for_byte() {
    with_each(async |make| {
        let (upstream, address) = Upstream::play(&[Step::Answer(503)]).await;
        let nginx = Nginx::before(address).await;
        let retry = RetryConfig::default().with_replay_limit(2 << 20);
        let client = make.configured(retry, BreakerConfig::default());
        let body = large();

        let answer = client.status(put(&nginx.url("/"), &body)).await;

        assert_eq!(answer, 200, "{make:?}");
        assert_eq!(statuses(&nginx.seen(2).await), [503, 200], "{make:?}");
        let got = upstream.got();
        assert_eq!(got.len(), 2, "{make:?}");
        assert!(got.iter().all(|got| got.body == body), "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn a_large_body_whose_answer_comes_before_its_end_is_sent_again_as_a_whole() {
    with_each(async |make| {
        let (upstream, address) = Upstream::play(&[]).await;
        let nginx = Nginx::before(address).await;
        let retry = RetryConfig::default().with_replay_limit(2 << 20);
        let client = make.configured(retry, BreakerConfig::default());
        let body = large();

        let answer = client.status(put(&nginx.url("/hasty/"), &body)).await;

        assert_eq!(answer, 200, "{make:?}");
        assert_eq!(statuses(&nginx.seen(2).await), [503, 200], "{make:?}");
        let got = upstream.got();
        assert_eq!(got.len(), 1, "{make:?}");
        assert!(got[0].body == body, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn a_body_larger_than_the_limit_is_sent_whole_and_once() {
    with_each(async |make| {
        let stage = Stage::set(make, &[Step::Answer(503)]).await;
        let body = large();

        let answer = stage.client.status(put(&stage.nginx.url("/"), &body)).await;

        assert_eq!(answer, 503, "{make:?}");
        stage.nginx.seen(1).await;
        let got = stage.upstream.got();
        assert_eq!(got.len(), 1, "{make:?}");
        assert!(got[0].body == body, "{make:?}");
    })
    .await;
}

#[tokio::test]
async fn nginx_that_is_gone_is_an_error_and_a_reason_to_open() {
    with_each(async |make| {
        let stage = Stage::set(make, &[]).await;
        let url = stage.nginx.url("/");
        assert_eq!(stage.client.status(get(&url)).await, 200, "{make:?}");
        stage.nginx.kill().await;

        stage.client.send(get(&url)).await.unwrap_err();
        let rejected = eventually("the opening", async || {
            let answer = stage.client.send(get(&url)).await.ok()?;
            is_rejected(&answer).then_some(answer)
        })
        .await;

        assert_eq!(rejected.status(), 503, "{make:?}");
        assert_eq!(stage.upstream.got().len(), 1, "{make:?}");
    })
    .await;
}
