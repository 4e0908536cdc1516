//! idempotency I7: a handler that blocks its thread costs no other execution its lease, and renewals cost a task only where
//! something waits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use http::HeaderMap;
use steadfast_idempotency::IdempotencyConfig;
use steadfast_testkit::faults::Method;
use tokio::{
    runtime::{Builder, Handle},
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};

use crate::support::{Answer, Call, Handler, Latch, World, charge, created, eventually};

const LEASE: Duration = Duration::from_millis(900);
const WORK: Duration = Duration::from_secs(3);
const BLOCK: Duration = Duration::from_secs(4);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn key(headers: &HeaderMap) -> &str {
    headers["idempotency-key"].to_str().unwrap()
}

/// Blocks its thread for the keys that say so, at once or after a wait for the latch, and waits for the others.
fn blocking(latch: &Latch) -> Handler {
    let latch = latch.clone();
    Handler::new(move |call: Call| {
        let latch = latch.clone();
        async move {
            match key(&call.parts.headers) {
                "blocks" => thread::sleep(BLOCK),
                "blocks-later" => {
                    latch.pass().await;
                    thread::sleep(BLOCK);
                }
                _ => sleep(WORK).await,
            }
            Ok(created(call.number))
        }
    })
}

fn world(latch: &Latch) -> World {
    let config = IdempotencyConfig::default()
        .with_lease(LEASE)
        .with_wait(Duration::ZERO);
    World::at_least_once(blocking(latch)).with_config(config)
}

/// Asks for the operation from another layer until it has its answer, and asserts that nobody takes it over.
async fn assert_kept(world: &World, works: JoinHandle<Answer>, started: u64) {
    let elsewhere = world.elsewhere();
    let begun = Instant::now();
    let mut refused = 0;
    while !works.is_finished() {
        let answer = elsewhere.send(charge("works")).await;
        if answer.status == 409 {
            answer.assert_refused(409, "in-progress");
            refused += 1;
        } else {
            assert_eq!(answer.header("idempotent-replayed"), Some("true"));
        }
        sleep(Duration::from_millis(20)).await;
    }

    let lasted = begun.elapsed();
    assert!(lasted < BLOCK, "it was held up: {lasted:?}");
    assert!(refused > 10, "asked {refused} times in {lasted:?}");
    let answer = works.await.unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.header("idempotent-replayed"), Some("false"));
    assert_eq!(world.handler.started(), started);
    let renewals = world.faults.calls(Method::Renew);
    assert!(renewals >= 5, "{renewals} renewals in {WORK:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_does_not_stop_the_renewals_of_others() {
    let latch = Latch::new();
    let world = world(&latch);
    let blocks = world.start(charge("blocks-later"));
    latch.reached().await;
    world.called(Method::Renew, 1).await;
    latch.open();

    let works = world.start(charge("works"));
    eventually("both run", || world.handler.running() == 2).await;
    assert_kept(&world, works, 2).await;

    assert_eq!(world.handler.running(), 1, "the other still blocks");
    blocks.await.unwrap().assert_executed("charge 1");
    assert!(world.faults.calls(Method::Renew) >= 10, "its own, too");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_never_waits_does_not_stop_the_renewals_of_others() {
    let world = world(&Latch::new());
    let blocks = world.start(charge("blocks"));
    eventually("it runs", || world.handler.running() == 1).await;

    let works = world.start(charge("works"));
    eventually("both run", || world.handler.running() == 2).await;
    assert_kept(&world, works, 2).await;

    assert_eq!(world.handler.running(), 1, "the other still blocks");
    // Its lease is over, and nobody has taken its record.
    blocks.await.unwrap().assert_executed("charge 1");
}

#[tokio::test]
async fn a_handler_that_blocks_another_runtime_does_not_stop_the_renewals_of_others() {
    let latch = Latch::new();
    let world = Arc::new(world(&latch));
    let other = {
        let world = Arc::clone(&world);
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(world.send(charge("blocks-later")))
        })
    };
    latch.reached().await;
    world.called(Method::Renew, 1).await;
    latch.open();

    let works = world.start(charge("works"));
    eventually("both run", || world.handler.running() == 2).await;
    assert_kept(&world, works, 2).await;

    assert_eq!(world.handler.running(), 1, "the other still blocks");
    let other = tokio::task::spawn_blocking(move || other.join().unwrap());
    let blocked = timeout(BLOCK * 2, other).await.unwrap().unwrap();
    blocked.assert_executed("charge 1");
}

/// Counts the tasks that there are when the handler comes, and once it has waited.
fn counting_tasks(waits: bool, seen: &Arc<[AtomicUsize; 2]>) -> Handler {
    let seen = Arc::clone(seen);
    Handler::new(move |call| {
        let seen = Arc::clone(&seen);
        async move {
            seen[0].store(tasks(), Ordering::Relaxed);
            if waits {
                yield_now().await;
            }
            seen[1].store(tasks(), Ordering::Relaxed);
            Ok(created(call.number))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn the_renewals_start_at_the_first_wait_of_an_execution() {
    for waits in [false, true] {
        let seen = Arc::default();
        let world = World::at_least_once(counting_tasks(waits, &seen));

        world.send(charge("k")).await.assert_executed("charge 1");

        // A task that was started and cut is there until its runtime has seen to it.
        let after = tasks();
        let seen = [0, 1].map(|at| seen[at].load(Ordering::Relaxed));
        let renewals = usize::from(waits);
        assert_eq!((seen, after), ([0, renewals], renewals));
        eventually("no task is left", || tasks() == 0).await;
    }
}

/// A store that answers later is a wait as well.
#[tokio::test(start_paused = true)]
async fn a_completion_that_waits_has_its_lease_renewed() {
    let config = IdempotencyConfig::default()
        .with_lease(LEASE)
        .with_completion_wait(WORK * 2);
    let seen = Arc::default();
    let world = World::at_least_once(counting_tasks(false, &seen)).with_config(config);
    let _ = world.faults.on(Method::Complete).delay(1, WORK);

    world.send(charge("k")).await.assert_executed("charge 1");

    assert_eq!(seen[1].load(Ordering::Relaxed), 0);
    assert!(world.faults.answers(Method::Renew) >= 9);
}
