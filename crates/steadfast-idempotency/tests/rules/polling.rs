//! idempotency I8: one poller asks the store for all operations that other processes execute.

use std::time::Duration;

use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::{FOREVER, Method};
use tokio::{
    runtime::{Handle, Runtime},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::support::{Answer, Crowd, Handler, Latch, Meter, World, charge, eventually, soon};

const WAIT: Duration = IdempotencyConfig::DEFAULT_WAIT;
const MOMENT: Duration = Duration::from_millis(2);

/// A layer that executes these operations until the latch is open, and another over the same records.
struct Scene {
    latch: Latch,
    executes: World,
    firsts: Vec<JoinHandle<Answer>>,
    world: World,
}

impl Scene {
    async fn of(keys: usize, config: IdempotencyConfig) -> Self {
        let latch = Latch::new();
        let executes = World::at_most_once(Handler::held(&latch)).with_config(config);
        let firsts = (0..keys).map(|key| executes.start(charge(&name(key))));
        let firsts: Vec<_> = firsts.collect();
        let running = u64::try_from(keys).unwrap();
        eventually("all run", || executes.handler.running() == running).await;
        let world = executes.elsewhere();
        Self {
            latch,
            executes,
            firsts,
            world,
        }
    }

    fn looks(&self) -> u64 {
        self.world.faults.calls(Method::LookUp)
    }
}

fn name(key: usize) -> String {
    format!("k-{key}")
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// The pauses double from 25 ms to 500 ms, each between half of it and the whole: at most 13 looks in two seconds.
const MOST_LOOKS: u64 = 14;

#[tokio::test(start_paused = true)]
async fn the_looks_of_a_wait_do_not_depend_on_how_many_wait_for_how_many_keys() {
    for (keys, each) in [(1, 1), (1, 1000), (60, 17), (256, 1)] {
        let meter = Meter::start();
        let scene = Scene::of(keys, IdempotencyConfig::default()).await;

        let herd: Vec<_> = (0..keys)
            .flat_map(|key| (0..each).map(move |_| key))
            .map(|key| scene.world.start(charge(&name(key))))
            .collect();
        let begun = Instant::now();
        for one in herd {
            one.await.unwrap().assert_refused(409, "in-progress");
        }

        let looks = scene.looks();
        assert!(
            (5..=MOST_LOOKS).contains(&looks),
            "{looks} looks at {keys} keys"
        );
        assert!(begun.elapsed() <= WAIT + MOMENT, "{:?}", begun.elapsed());
        assert!(meter.waiting() == 0.0);
    }
}

#[tokio::test(start_paused = true)]
async fn keys_are_asked_for_in_batches() {
    let scene = Scene::of(300, IdempotencyConfig::default()).await;
    let waiting: Vec<_> = (0..300)
        .map(|key| scene.world.start(charge(&name(key))))
        .collect();

    scene.world.called(Method::LookUp, 1).await;
    assert_eq!(scene.looks(), 2, "256 keys, and the rest");
    scene.latch.open();

    for one in waiting.into_iter().chain(scene.firsts) {
        assert_eq!(one.await.unwrap().status, 201);
    }
    assert_eq!(scene.executes.handler.started(), 300);
}

#[tokio::test(start_paused = true)]
async fn a_new_waiter_restarts_the_pace() {
    let config = IdempotencyConfig::default().with_wait(WAIT * 10);
    let scene = Scene::of(2, config).await;
    let first = scene.world.start(charge("k-0"));
    sleep(WAIT * 2).await;
    let looks = scene.looks();
    scene.world.called(Method::LookUp, looks + 1).await;
    let looked = Instant::now();

    let second = scene.world.start(charge("k-1"));
    scene.world.called(Method::LookUp, looks + 2).await;

    // Without a newcomer the next look came after 250 ms at least.
    let paused = looked.elapsed();
    assert!(paused <= Duration::from_millis(25) + MOMENT, "{paused:?}");
    scene.latch.open();
    for one in [first, second] {
        assert_eq!(
            one.await.unwrap().header("idempotent-replayed"),
            Some("true")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_found_within_half_a_second() {
    let config = IdempotencyConfig::default().with_wait(WAIT * 10);
    let mut scene = Scene::of(1, config).await;
    let waiting = scene.world.start(charge("k-0"));
    sleep(WAIT * 2).await;

    scene.latch.open();
    scene.firsts.remove(0).await.unwrap();
    let stored = Instant::now();

    waiting.await.unwrap().assert_replayed("charge 1");
    assert!(stored.elapsed() <= Duration::from_millis(500) + MOMENT);
}

#[tokio::test(start_paused = true)]
async fn the_poller_ends_when_nobody_waits_and_begins_for_the_next() {
    let scene = Scene::of(1, IdempotencyConfig::default()).await;
    let before = tasks();

    for _ in 0..3 {
        let crowd = Crowd::of(&scene.world, 3, || charge("k-0")).await;
        assert_eq!(tasks(), before + 1, "one poller");
        for answer in crowd.answers().await {
            answer.assert_refused(409, "in-progress");
        }
        eventually("it ended", || tasks() == before).await;
        let looks = scene.looks();
        sleep(WAIT * 10).await;
        assert_eq!(scene.looks(), looks, "it asks for nobody");
    }
}

#[tokio::test(start_paused = true)]
async fn the_poller_ends_when_all_have_left() {
    let config = IdempotencyConfig::default().with_wait(WAIT * 10);
    let scene = Scene::of(1, config).await;
    let before = tasks();
    let crowd = Crowd::of(&scene.world, 3, || charge("k-0")).await;
    sleep(WAIT).await;

    drop(crowd);

    let looks = scene.looks();
    sleep(Duration::from_millis(500) + MOMENT).await;
    assert_eq!(tasks(), before);
    assert!(scene.looks() <= looks + 1);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_never_says_how_an_operation_stands_is_unavailable_when_the_wait_is_over() {
    let scene = Scene::of(3, IdempotencyConfig::default()).await;
    let _ = scene.world.faults.on(Method::LookUp).lose_request(FOREVER);
    let begun = Instant::now();

    let waiting: Vec<_> = (0..3)
        .map(|key| scene.world.start(charge(&name(key))))
        .collect();

    for one in waiting {
        let answer = one.await.unwrap();
        answer.assert_refused(503, "store-unavailable");
        answer.assert_retryable(true);
        answer.assert_retry_after("1");
    }
    assert!(begun.elapsed() <= WAIT + MOMENT);
    let looks = scene.looks();
    assert!(looks <= MOST_LOOKS, "{looks}");

    scene.world.faults.heal();
    scene.latch.open();
    scene.executes.handle.drain(WAIT).await.unwrap();
    let retry = scene.world.send(charge("k-0")).await;
    assert_eq!(retry.header("idempotent-replayed"), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_hangs_does_not_hold_its_waiters() {
    let scene = Scene::of(2, IdempotencyConfig::default()).await;
    let gate = scene.world.faults.on(Method::LookUp).hold_before(1);
    let begun = Instant::now();

    let early = scene.world.start(charge("k-0"));
    soon(gate.reached()).await;
    let late = scene.world.start(charge("k-1"));

    for one in [early, late] {
        one.await.unwrap().assert_refused(503, "store-unavailable");
    }
    let lasted = begun.elapsed();
    assert!(
        lasted >= WAIT && lasted <= WAIT + Duration::from_millis(300),
        "{lasted:?}"
    );

    gate.open();
    let next = scene.world.start(charge("k-0"));
    scene.world.called(Method::LookUp, 2).await;
    scene.latch.open();
    let next = next.await.unwrap();
    assert_eq!(next.header("idempotent-replayed"), Some("true"));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_answers_late_still_tells() {
    let scene = Scene::of(1, IdempotencyConfig::default()).await;
    let _ = scene
        .world
        .faults
        .on(Method::LookUp)
        .delay(FOREVER, Duration::from_millis(100));
    let begun = Instant::now();

    let answer = scene.world.send(charge("k-0")).await;

    answer.assert_refused(409, "in-progress");
    assert!(begun.elapsed() <= WAIT + Duration::from_millis(250));
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

fn threaded() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap()
}

/// Runs in this runtime, in real time; its duplicates come on others.
fn scene_on(runtime: &Runtime) -> Scene {
    let config = IdempotencyConfig::default().with_wait(Duration::from_secs(20));
    runtime.block_on(Scene::of(2, config))
}

/// The answer to a duplicate of the first operation that comes on this runtime.
fn answer_on(runtime: &Runtime, scene: &Scene) -> Answer {
    runtime.block_on(async {
        let looks = scene.looks();
        let waiting = scene.world.start(charge("k-0"));
        let looked = scene.world.faults.called(Method::LookUp, looks + 1);
        let looked = timeout(Duration::from_secs(10), looked).await;
        looked.expect("nobody looks");
        scene.latch.open();
        waiting.await.unwrap()
    })
}

#[test]
fn another_poller_begins_when_the_runtime_of_the_first_has_ended() {
    let executes = threaded();
    let scene = scene_on(&executes);
    let first = runtime();
    let crowd = first.block_on(async {
        let crowd = Crowd::of(&scene.world, 1, || charge("k-0")).await;
        scene.world.called(Method::LookUp, 1).await;
        crowd
    });
    drop((first, crowd));

    let answer = answer_on(&runtime(), &scene);
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
}

#[test]
fn another_poller_begins_when_the_first_never_ran() {
    let executes = threaded();
    let scene = scene_on(&executes);
    let first = runtime();
    let crowd = first.block_on(Crowd::of(&scene.world, 1, || charge("k-0")));
    assert_eq!(scene.looks(), 0);
    drop((crowd, first));

    let answer = answer_on(&runtime(), &scene);
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
}

/// The store is well: only the task that asked it is gone.
#[test]
fn a_waiter_waits_on_when_the_runtime_of_its_poller_ends() {
    let executes = threaded();
    let scene = scene_on(&executes);
    let (first, second) = (runtime(), runtime());
    let polling = first.block_on(async {
        let crowd = Crowd::of(&scene.world, 1, || charge("k-0")).await;
        scene.world.called(Method::LookUp, 1).await;
        crowd
    });
    let waiting = second.block_on(Crowd::of(&scene.world, 1, || charge("k-1")));

    drop((polling, first));
    scene.latch.open();

    let answer = second.block_on(waiting.answer());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("idempotent-replayed"), Some("true"));
}
