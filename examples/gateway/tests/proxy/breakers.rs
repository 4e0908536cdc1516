//! Who is left alone, and who is not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::header;
use tokio::{sync::Notify, time::sleep};

use crate::support::{Gateway, Upstream, dead, eventually, says};

const ONE_ATTEMPT: [&str; 2] = ["--attempts", "1"];

#[tokio::test]
async fn a_dead_upstream_opens_its_own_breaker_and_leaves_that_of_another_alone() {
    let (_port, refusing) = dead();
    let upstream = Upstream::saying("answer").await;
    let routes = [&*format!("/dead={refusing}"), &*upstream.at("/well")];
    let gateway = Gateway::with(&routes, &ONE_ATTEMPT).await;

    for _ in 0..5 {
        let answer = gateway.get("/dead").await;
        assert_eq!(answer.problem(), (502, "upstream-unreachable".to_owned()));
    }

    let answer = gateway.get("/dead").await;
    assert_eq!(answer.problem(), (503, "circuit-open".to_owned()));
    let breaker = gateway.breaker(&refusing).await;
    assert_eq!(breaker["state"], "open");
    assert!((1..=33_000).contains(&breaker["open_for_ms"].as_u64().unwrap()));
    assert_eq!(gateway.get("/well").await.text(), "answer");
    assert_eq!(gateway.breaker(&upstream.url()).await["state"], "closed");
}

#[tokio::test]
async fn who_is_rejected_takes_no_connection_and_is_told_when_to_come_back() {
    let upstream = Upstream::that(|_| says(500, "broken")).await;
    let arguments = ["--attempts", "1", "--breaker-open", "20s"];
    let gateway = Gateway::with(&[&upstream.at("/")], &arguments).await;
    for _ in 0..5 {
        assert_eq!(gateway.get("/").await.text(), "broken");
    }
    let connections = upstream.connections();

    for _ in 0..10 {
        let answer = gateway.get("/").await;
        assert_eq!(answer.problem(), (503, "circuit-open".to_owned()));
        let seconds = answer.headers[header::RETRY_AFTER].to_str().unwrap();
        assert!((1..=22).contains(&seconds.parse().unwrap()), "{seconds}");
        assert!(
            !answer.headers.contains_key(header::VIA),
            "nobody was asked"
        );
        assert!(!answer.text().contains(&upstream.authority()));
    }

    assert_eq!((upstream.begun(), upstream.connections()), (5, connections));
}

#[tokio::test]
async fn routes_that_share_an_upstream_share_its_breaker() {
    let upstream = Upstream::that(|_| says(500, "broken")).await;
    let routes = [&*upstream.at("/one"), &*upstream.at("/two")];
    let gateway = Gateway::with(&routes, &ONE_ATTEMPT).await;

    for _ in 0..5 {
        gateway.get("/one").await;
    }

    assert_eq!(gateway.get("/two").await.problem().1, "circuit-open");
}

#[tokio::test]
async fn an_upstream_that_is_left_alone_is_passed_over_until_it_is_back() {
    let is_well = Arc::new(AtomicBool::new(false));
    let health = Arc::clone(&is_well);
    let sick = Upstream::that(move |_| match health.load(Ordering::SeqCst) {
        false => says(503, "not now"),
        true => says(200, "sick"),
    })
    .await;
    let well = Upstream::saying("well").await;
    let route = format!("{},{}", sick.at("/"), well.url());
    let gateway = Gateway::with(&[&route], &["--breaker-open", "1s"]).await;

    // Each request that has its turn is healed by the other one.
    while gateway.breaker(&sick.url()).await["state"] == "closed" {
        assert_eq!(gateway.get("/").await.text(), "well");
    }
    let begun = sick.begun();
    assert_eq!(begun, 5);
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.text(), "well");
    }
    assert_eq!(sick.begun(), begun, "it is left alone");

    is_well.store(true, Ordering::SeqCst);
    let url = sick.url();
    while gateway.breaker(&url).await["state"] != "closed" {
        assert_eq!(gateway.get("/").await.status, 200);
        sleep(Duration::from_millis(10)).await;
    }
    assert!(sick.begun() >= begun + 3, "three probes closed it");
}

#[tokio::test]
async fn a_probe_is_one_request_and_the_others_go_where_they_can() {
    let hold = Arc::new(Notify::new());
    let held = Arc::clone(&hold);
    let number = AtomicUsize::new(0);
    let slow = Upstream::serving(move |_| {
        let held = Arc::clone(&held);
        let is_first = number.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if is_first {
                return says(503, "not now");
            }
            held.notified().await;
            says(200, "slow")
        }
    })
    .await;
    let well = Upstream::saying("well").await;
    let route = format!("{},{}", slow.at("/"), well.url());
    let arguments = ["--breaker-failures", "1", "--breaker-open", "50ms"];
    let gateway = Arc::new(Gateway::with(&[&route], &arguments).await);
    assert_eq!(gateway.get("/").await.text(), "well");

    let prober = Arc::clone(&gateway);
    let probing = tokio::spawn(async move {
        while prober.get("/").await.text() == "well" {
            sleep(Duration::from_millis(10)).await;
        }
    });
    eventually("a probe", || slow.begun() == 2).await;
    for _ in 0..4 {
        assert_eq!(gateway.get("/").await.text(), "well");
    }

    assert_eq!(slow.begun(), 2, "others came to it");
    let breaker = gateway.breaker(&slow.url()).await;
    assert_eq!(breaker["state"], "half_open");
    hold.notify_one();
    probing.await.unwrap();
}

#[tokio::test]
async fn where_all_are_left_alone_the_time_to_wait_is_that_of_the_first_who_may_be_asked() {
    let one = Upstream::that(|_| says(503, "not now")).await;
    let two = Upstream::that(|_| says(503, "not now")).await;
    let route = format!("{},{}", one.at("/"), two.url());
    let arguments = ["--breaker-failures", "1", "--breaker-open", "20s"];
    let gateway = Gateway::with(&[&route], &arguments).await;

    assert_eq!(gateway.get("/").await.problem().1, "circuit-open");

    let open_for = async |upstream: &Upstream| {
        let breaker = gateway.breaker(&upstream.url()).await;
        breaker["open_for_ms"].as_u64().unwrap()
    };
    let answer = gateway.get("/").await;
    let least = open_for(&one).await.min(open_for(&two).await);
    let told: u64 = answer.headers[header::RETRY_AFTER]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(answer.problem().1, "circuit-open");
    assert!(
        told * 1000 >= least && told * 1000 <= least + 2000,
        "{told} s, {least} ms"
    );
    assert_eq!((one.begun(), two.begun()), (1, 1));
}
