//! idempotency I8: the pace of the poller: which keys it asks the store for, and how slow a store may be.

use std::{collections::BTreeSet, time::Duration};

use steadfast_core::idempotency::KeyDigest;
use steadfast_idempotency::{Idempotency, IdempotencyConfig, IdempotencyLayer, scope};
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep},
};
use tower::Layer;

use crate::support::{Answer, Asked, Crowd, Handler, Inner, Latch, St, World, charge, eventually};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(2);

/// What the last look of a wait may take past its end.
const LAST_LOOK: Duration = Duration::from_millis(250);

/// Slow, and within what a last look may take.
const SLOW: Duration = Duration::from_millis(220);

fn name(key: usize) -> String {
    format!("k-{key}")
}

/// A layer that executes so many operations until the latch is open.
struct Scene {
    latch: Latch,
    executes: World,
    firsts: Vec<JoinHandle<Answer>>,
    /// Of each, by its number.
    keys: Vec<KeyDigest>,
}

impl Scene {
    async fn of(keys: usize) -> Self {
        let latch = Latch::new();
        let executes = World::at_most_once(Handler::held(&latch));
        let (mut firsts, mut digests) = (Vec::new(), Vec::new());
        for key in 0..keys {
            firsts.push(executes.start(charge(&name(key))));
            let running = u64::try_from(key).unwrap() + 1;
            eventually("it runs", || executes.handler.running() == running).await;
            digests.push(*executes.handler.operation().key());
        }
        Self {
            latch,
            executes,
            firsts,
            keys: digests,
        }
    }

    /// Another process over its records, whose waits are so long.
    fn world(&self, wait: Duration) -> World {
        let config = IdempotencyConfig::default().with_wait(wait);
        self.executes.elsewhere().with_config(config)
    }

    /// Another process, and the keys that it asks for.
    fn asked(&self, wait: Duration) -> (Asked<St>, Idempotency<Inner, Asked<St>>) {
        let store = Asked::new(self.world(wait).store);
        let config = IdempotencyConfig::default().with_wait(wait);
        let layer = IdempotencyLayer::at_most_once(store.clone(), scope::shared())
            .unwrap()
            .with_config(config)
            .unwrap();
        (store, layer.layer(self.executes.handler.service()))
    }
}

async fn wait_for(service: &Idempotency<Inner, Asked<St>>, key: usize) -> JoinHandle<Answer> {
    let crowd = Crowd::calling(service, 1, || charge(&name(key))).await;
    tokio::spawn(crowd.answer())
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_that_works_is_not_unavailable() {
    let scene = Scene::of(1).await;
    // A look may begin at any moment before the end of a wait, or at it.
    for wait in (0..60).map(|step| Duration::from_millis(20 + step * 37)) {
        let world = scene.world(wait);
        let _ = world.faults.on(Method::LookUp).delay(FOREVER, SLOW);
        let begun = Instant::now();

        let answer = world.send(charge("k-0")).await;

        let waited = begun.elapsed();
        assert_eq!(answer.status, 409, "{wait:?}: {answer:?}");
        answer.assert_refused(409, "in-progress");
        assert!(waited <= wait + LAST_LOOK, "{wait:?}: {waited:?}");
    }
}

/// Each comes at its own time, and some while the store is asked for others.
#[tokio::test(start_paused = true)]
async fn a_slow_store_that_works_is_not_unavailable_to_those_who_wait_for_several_keys() {
    let keys = 12;
    for step in [3, 17, 41, 110].map(Duration::from_millis) {
        let scene = Scene::of(keys).await;
        let world = scene.world(SECOND);
        let _ = world.faults.on(Method::LookUp).delay(FOREVER, SLOW);
        let mut waiting = Vec::new();
        for key in 0..keys {
            waiting.push(world.start(charge(&name(key))));
            sleep(step).await;
        }

        for one in waiting {
            let answer = one.await.unwrap();
            assert_eq!(answer.status, 409, "{step:?}: {answer:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_that_works_finds_the_answer() {
    let mut scene = Scene::of(1).await;
    let world = scene.world(SECOND * 2);
    let _ = world.faults.on(Method::LookUp).delay(FOREVER, SLOW);
    let waiting = world.start(charge("k-0"));
    sleep(SECOND).await;

    scene.latch.open();
    scene.firsts.remove(0).await.unwrap();

    waiting.await.unwrap().assert_replayed("charge 1");
}

#[tokio::test(start_paused = true)]
async fn a_store_whose_last_look_fails_is_unavailable() {
    let scene = Scene::of(1).await;
    let world = scene.world(SECOND);
    let waiting = world.start(charge("k-0"));
    sleep(SECOND / 2).await;
    let _ = world.faults.on(Method::LookUp).fail_unsent(FOREVER);

    let answer = waiting.await.unwrap();

    answer.assert_refused(503, "store-unavailable");
    answer.assert_retryable(true);
    answer.assert_retry_after("1");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_and_recovers_within_the_wait_is_not_unavailable() {
    let scene = Scene::of(1).await;
    let world = scene.world(SECOND);
    let _ = world.faults.on(Method::LookUp).fail_unsent(3);

    let answer = world.send(charge("k-0")).await;

    answer.assert_refused(409, "in-progress");
    assert!(world.faults.calls(Method::LookUp) > 4);
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_in_step_share_every_look() {
    let scene = Scene::of(40).await;
    let (store, service) = scene.asked(SECOND * 2);
    let mut waiting = Vec::new();
    for key in 0..40 {
        waiting.push(wait_for(&service, key).await);
    }

    for one in waiting {
        one.await.unwrap().assert_refused(409, "in-progress");
    }

    let looks = store.looks();
    assert!((5..=14).contains(&looks.len()), "{} looks", looks.len());
    let all: BTreeSet<_> = scene.keys.iter().map(|key| *key.as_bytes()).collect();
    for keys in looks {
        let keys: BTreeSet<_> = keys.iter().map(|key| *key.as_bytes()).collect();
        assert_eq!(keys, all);
    }
}

/// Keys that came up to an eighth of their pause apart are brought into step.
#[tokio::test(start_paused = true)]
async fn keys_that_are_nearly_due_share_a_look() {
    let scene = Scene::of(2).await;
    let (store, service) = scene.asked(SECOND * 20);
    let first = wait_for(&service, 0).await;
    sleep(MOMENT / 2).await;
    let second = wait_for(&service, 1).await;

    sleep(SECOND * 10).await;

    let looks = store.looks();
    let alone = looks.iter().filter(|keys| keys.len() == 1).count();
    assert!(alone <= 2, "{alone} of {} looks", looks.len());
    scene.latch.open();
    for one in [first, second] {
        assert_eq!(one.await.unwrap().status, 201);
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_does_not_make_the_poller_ask_for_keys_that_are_not_nearly_due() {
    let scene = Scene::of(4).await;
    let (store, service) = scene.asked(SECOND * 60);
    let olds: [_; 3] = [
        wait_for(&service, 0).await,
        wait_for(&service, 1).await,
        wait_for(&service, 2).await,
    ];
    sleep(SECOND * 5).await;

    let newcomer = scene.keys[3];
    for _ in 0..5 {
        // They pause for a quarter of a second at least from here.
        let before = store.looks().len();
        eventually("a look", || store.looks().len() > before).await;
        let before = store.looks().len();
        let come = Instant::now();
        let late = wait_for(&service, 3).await;
        sleep(Duration::from_millis(150)).await;

        let looks = store.looks().split_off(before);
        assert!((2..=5).contains(&looks.len()), "{looks:?}");
        for keys in looks {
            assert_eq!(keys, [newcomer], "{:?} later", come.elapsed());
        }
        late.abort();
        assert!(late.await.unwrap_err().is_cancelled());
        eventually("all are looked for", || store.looks().len() > before + 7).await;
    }

    scene.latch.open();
    for old in olds {
        assert_eq!(old.await.unwrap().status, 201);
    }
}

/// The pace of a key is that of its newest waiter.
#[tokio::test(start_paused = true)]
async fn a_second_waiter_of_a_key_has_it_asked_for_sooner() {
    let scene = Scene::of(1).await;
    let (store, service) = scene.asked(SECOND * 60);
    let first = wait_for(&service, 0).await;
    sleep(SECOND * 5).await;
    let before = store.looks().len();
    eventually("a look", || store.looks().len() > before).await;
    let before = store.looks().len();

    let second = wait_for(&service, 0).await;
    sleep(Duration::from_millis(150)).await;

    let looks = store.looks().len() - before;
    assert!((2..=5).contains(&looks), "{looks}");
    scene.latch.open();
    for one in [first, second] {
        one.await.unwrap().assert_replayed("charge 1");
    }
}
