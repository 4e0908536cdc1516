//! One rule each.

use std::{
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use allocation_counter::measure;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Empty, Full};
use steadfast_http::{
    BoxError,
    body::{BytePool, Replay, ReplayBody},
};

use super::support::{Item, Original, Polled, Step, Task, Tells, next, poll, read};

const LIMIT: usize = 64 * 1024;

#[test]
fn a_replay_starts_over_and_goes_on_with_what_was_never_read() {
    let items = [Item::data("one"), Item::data("two"), Item::trailers("1")];
    let (mut replay, mut first) = split(Original::of(items.clone()));
    assert_eq!(poll(&mut first), Polled::data("one"));
    drop(first);

    let mut second = replay.again().unwrap();
    assert_eq!(poll(&mut second), Polled::data("one"));
    assert_eq!(poll(&mut second), Polled::data("two"));
    drop(second);
    let mut third = replay.again().unwrap();
    assert_eq!(read(&mut third), items);

    assert_eq!(read(&mut replay.again().unwrap()), items);
}

#[test]
fn an_early_response_is_followed_by_the_whole_body() {
    let first_half = Step::Yield(Item::data("first half, "));
    let second_half = Step::Yield(Item::data("second half"));
    let (mut replay, mut first) = split(Original::new([first_half, Step::Wait, second_half]));
    assert_eq!(poll(&mut first), Polled::data("first half, "));
    assert_eq!(poll(&mut first), Polled::Waits);

    let mut second = replay.again().unwrap();

    assert_eq!(poll(&mut first), Polled::superseded());
    assert_eq!(
        read(&mut second),
        [Item::data("first half, "), Item::data("second half")]
    );
}

#[test]
fn a_superseded_attempt_is_woken_and_reads_no_more() {
    let original = Original::new([Step::Wait, Step::Yield(Item::data("one"))]);
    let watch = original.watch();
    let (mut replay, mut first) = split(original);
    let task = Task::new();
    assert_eq!(task.poll(&mut first), Polled::Waits);

    let second = replay.again().unwrap();

    assert_eq!(task.wakes(), 1);
    assert!(!first.is_end_stream());
    assert_eq!(task.poll(&mut first), Polled::superseded());
    assert_eq!(task.poll(&mut first), Polled::Ended);
    assert!(first.is_end_stream());
    assert_eq!(watch.polls(), 1);
    drop(second);
}

#[test]
fn the_last_who_polled_is_woken() {
    let (mut replay, mut first) = split(Original::new([Step::Wait, Step::Wait]));
    let earlier = Task::new();
    assert_eq!(earlier.poll(&mut first), Polled::Waits);
    let later = Task::new();
    assert_eq!(later.poll(&mut first), Polled::Waits);

    let _second = replay.again();

    assert_eq!((earlier.wakes(), later.wakes()), (0, 1));
}

#[test]
fn a_dropped_attempt_is_not_woken() {
    let (mut replay, mut first) = split(Original::new([Step::Wait]));
    let task = Task::new();
    assert_eq!(task.poll(&mut first), Polled::Waits);

    drop(first);
    assert_eq!(Arc::strong_count(&task), 1);
    let _second = replay.again();

    assert_eq!(task.wakes(), 0);
}

#[test]
fn after_the_call_nobody_is_held_to_be_woken() {
    let (replay, mut first) = split(Original::new([Step::Wait, Step::Wait]));
    let task = Task::new();
    assert_eq!(task.poll(&mut first), Polled::Waits);
    assert_eq!(Arc::strong_count(&task), 2);

    drop(replay);
    assert_eq!(Arc::strong_count(&task), 1);

    assert_eq!(task.poll(&mut first), Polled::Waits);
    assert_eq!(Arc::strong_count(&task), 1);
}

#[test]
fn a_body_over_the_limit_goes_on_and_cannot_be_sent_again() {
    let pool = BytePool::new(LIMIT);
    let items = [Item::data("one "), Item::data("two "), Item::data("three")];
    let original = Original::of(items.clone()).telling(Tells::Nothing);
    let (mut replay, mut body) = Replay::new(original, 8, &pool);

    assert_eq!(poll(&mut body), Polled::data("one "));
    assert_eq!(poll(&mut body), Polled::data("two "));
    assert!(replay.is_replayable());
    assert_eq!(pool.available(), LIMIT - 8);
    assert_eq!(poll(&mut body), Polled::data("three"));

    assert!(!replay.is_replayable());
    assert!(replay.again().is_none());
    assert_eq!(pool.available(), LIMIT);
    assert_eq!(poll(&mut body), Polled::Ended);
}

#[test]
fn a_refused_replay_does_not_disturb_the_attempt() {
    let steps = [Step::Yield(Item::data("long")), Step::Wait];
    let steps = steps.into_iter().chain([Step::Yield(Item::data("rest"))]);
    let (mut replay, mut body) = Replay::new(Original::new(steps), 1, &BytePool::new(LIMIT));
    let task = Task::new();
    assert_eq!(task.poll(&mut body), Polled::data("long"));
    assert_eq!(task.poll(&mut body), Polled::Waits);

    assert!(replay.again().is_none());

    assert_eq!(task.wakes(), 0);
    assert_eq!(task.poll(&mut body), Polled::data("rest"));
}

#[test]
fn a_body_that_the_pool_has_no_room_for_goes_on_and_cannot_be_sent_again() {
    let pool = BytePool::new(10);
    let mut others = pool.reservation();
    assert!(others.try_grow(5));
    let original = Original::of([Item::data("1234"), Item::data("56")]);
    let (replay, mut body) = Replay::new(original, LIMIT, &pool);

    assert_eq!(poll(&mut body), Polled::data("1234"));
    assert_eq!(pool.available(), 1);
    assert_eq!(poll(&mut body), Polled::data("56"));

    assert!(!replay.is_replayable());
    assert_eq!(pool.available(), 5);
    assert!(body.is_end_stream());
}

#[test]
fn a_body_of_too_many_frames_goes_on_and_cannot_be_sent_again() {
    let frames = Replay::<Original>::MAX_FRAMES;
    let original = Original::of((0..=frames).map(|_| Item::data("1")));
    let (replay, mut body) = split(original);

    for _ in 0..frames {
        assert_eq!(poll(&mut body), Polled::data("1"));
    }
    assert!(replay.is_replayable());
    assert_eq!(poll(&mut body), Polled::data("1"));

    assert!(!replay.is_replayable());
    assert!(body.is_end_stream());
}

#[test]
fn trailers_count_against_the_limit() {
    let pool = BytePool::new(LIMIT);
    let items = [Item::data("data"), Item::trailers("12")];
    // The data, and 32 for the field, 8 for its name and 2 for its value.
    let enough = 4 + 32 + 8 + 2;
    let (mut replay, mut body) = Replay::new(Original::of(items.clone()), enough, &pool);
    assert_eq!(read(&mut body), items);
    assert_eq!(pool.available(), LIMIT - enough);
    assert_eq!(read(&mut replay.again().unwrap()), items);

    let (replay, mut body) = Replay::new(Original::of(items.clone()), enough - 1, &pool);
    assert_eq!(read(&mut body), items);
    assert!(!replay.is_replayable());
}

#[test]
fn a_body_that_goes_on_after_its_trailers_cannot_be_sent_again() {
    let items = [Item::trailers("1"), Item::data("more")];
    let (replay, mut body) = split(Original::of(items.clone()));

    assert_eq!(read(&mut body), items);

    assert!(!replay.is_replayable());
}

#[test]
fn an_error_is_passed_on_and_the_body_cannot_be_sent_again() {
    let pool = BytePool::new(LIMIT);
    let original = Original::new([Step::Yield(Item::data("one")), Step::Fail("cut")]);
    let (mut replay, mut body) = Replay::new(original, LIMIT, &pool);

    assert_eq!(poll(&mut body), Polled::data("one"));
    assert_eq!(poll(&mut body), Polled::Failed("cut".into()));

    assert!(!replay.is_replayable());
    assert!(replay.again().is_none());
    assert_eq!(pool.available(), LIMIT);
}

#[test]
fn a_panic_stays_the_original_s_own() {
    let pool = BytePool::new(LIMIT);
    let original = Original::new([Step::Yield(Item::data("one")), Step::Panic]);
    let watch = original.watch();
    let (mut replay, mut body) = Replay::new(original, LIMIT, &pool);
    assert_eq!(poll(&mut body), Polled::data("one"));

    let panic = catch_unwind(AssertUnwindSafe(|| poll(&mut body))).unwrap_err();

    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the original panicked"));
    assert!(!replay.is_replayable());
    assert!(replay.again().is_none());
    assert!(!body.is_end_stream());
    let error = "request body panicked when it was read before";
    assert_eq!(poll(&mut body), Polled::Failed(error.into()));
    assert_eq!(poll(&mut body), Polled::Ended);

    drop((replay, body));
    assert!(watch.is_dropped());
    assert_eq!(pool.available(), LIMIT);
}

#[test]
fn after_the_call_nothing_more_is_kept() {
    let pool = BytePool::new(LIMIT);
    let (replay, mut body) = Replay::new(
        Original::of([Item::data("one"), Item::data("two")]),
        LIMIT,
        &pool,
    );
    assert_eq!(poll(&mut body), Polled::data("one"));
    assert_eq!(pool.available(), LIMIT - 3);

    drop(replay);

    assert_eq!(pool.available(), LIMIT);
    assert_eq!(read(&mut body), [Item::data("two")]);
    assert_eq!(pool.available(), LIMIT);
}

#[test]
fn after_the_call_a_replay_still_sends_what_is_kept() {
    let pool = BytePool::new(LIMIT);
    let (sent, was_sent_freed) = owned("one");
    let (unsent, was_unsent_freed) = owned("two");
    let items = [sent, unsent, Item::data("three"), Item::data("four")];
    let (mut replay, mut first) = Replay::new(Original::of(items), LIMIT, &pool);
    for _ in 0..3 {
        assert!(matches!(poll(&mut first), Polled::Item(_)));
    }
    let mut second = replay.again().unwrap();
    assert_eq!(poll(&mut second), Polled::data("one"));
    assert!(!was_sent_freed.load(Ordering::SeqCst));

    drop(replay);

    assert!(was_sent_freed.load(Ordering::SeqCst));
    assert!(!was_unsent_freed.load(Ordering::SeqCst));
    assert_eq!(poll(&mut second), Polled::data("two"));
    assert!(was_unsent_freed.load(Ordering::SeqCst));
    assert!(pool.available() < LIMIT);
    assert_eq!(poll(&mut second), Polled::data("three"));
    assert_eq!(pool.available(), LIMIT);
    assert_eq!(read(&mut second), [Item::data("four")]);
}

#[test]
fn after_the_call_a_body_that_nobody_reads_is_freed() {
    let pool = BytePool::new(LIMIT);
    let original = Original::of([Item::data("one"), Item::data("two")]);
    let watch = original.watch();
    let (mut replay, mut first) = Replay::new(original, LIMIT, &pool);
    assert_eq!(poll(&mut first), Polled::data("one"));
    let second = replay.again().unwrap();

    drop(replay);
    assert!(!watch.is_dropped());
    drop(second);

    assert!(watch.is_dropped());
    assert_eq!(pool.available(), LIMIT);
    assert_eq!(poll(&mut first), Polled::superseded());
}

#[test]
fn the_original_is_freed_at_its_end_and_never_polled_again() {
    for tells_end in [true, false] {
        let items = [Item::data("one"), Item::data("two")];
        let original = Original::of(items.clone()).telling_its_end(tells_end);
        let watch = original.watch();
        let (mut replay, mut first) = split(original);

        assert_eq!(read(&mut first), items);
        assert!(watch.is_dropped());
        assert!(replay.is_replayable());

        let mut second = replay.again().unwrap();
        assert_eq!(read(&mut second), items);
        assert_eq!(poll(&mut second), Polled::Ended);
        assert_eq!(poll(&mut first), Polled::Ended);
    }
}

#[test]
fn the_end_is_told_with_the_last_frame() {
    let items = [Item::data("one"), Item::trailers("1")];
    let (mut replay, mut first) = split(Original::of(items));

    for _ in 0..2 {
        assert_eq!(poll(&mut first), Polled::data("one"));
        assert!(!first.is_end_stream());
        assert!(matches!(poll(&mut first), Polled::Item(_)));
        assert!(first.is_end_stream());
        first = replay.again().unwrap();
    }
}

#[test]
fn every_attempt_tells_the_length_of_the_first() {
    let (mut replay, mut body) = split(Original::of([Item::data("four"), Item::data("five!")]));

    for _ in 0..3 {
        assert_eq!(body.size_hint().exact(), Some(9));
        assert_eq!(poll(&mut body), Polled::data("four"));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(poll(&mut body), Polled::data("five!"));
        assert_eq!(body.size_hint().exact(), Some(0));
        body = replay.again().unwrap();
    }
}

#[test]
fn a_body_that_tells_no_length_tells_none_again() {
    let original = Original::of([Item::data("four")]).telling(Tells::Nothing);
    let (mut replay, mut body) = split(original);
    read(&mut body);

    let hint = replay.again().unwrap().size_hint();

    assert_eq!((hint.lower(), hint.upper()), (0, None));
}

#[test]
fn a_longer_body_than_told_is_passed_on() {
    struct Liar(Original);

    impl Body for Liar {
        type Data = Bytes;
        type Error = BoxError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
            Pin::new(&mut self.0).poll_frame(cx)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(2)
        }
    }

    let items = [Item::data("longer"), Item::data("than told")];
    let (mut replay, mut body) = Replay::new(
        Liar(Original::of(items.clone())),
        LIMIT,
        &BytePool::new(LIMIT),
    );

    assert_eq!(read(&mut body), items);

    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(read(&mut replay.again().unwrap()), items);
}

#[test]
fn without_a_body_nothing_is_allocated() {
    let pool = BytePool::new(LIMIT);

    let allocated = measure(|| {
        let (mut replay, mut first) = Replay::new(Empty::<Bytes>::new(), LIMIT, &pool);
        assert_eq!(first.size_hint().exact(), Some(0));
        assert!(first.is_end_stream());
        assert!(next(&mut first).is_none());
        let mut second = replay.again().unwrap();
        assert_eq!(second.size_hint().exact(), Some(0));
        assert!(second.is_end_stream());
        assert!(replay.is_replayable());
        assert!(next(&mut second).is_none());
    });

    assert_eq!(allocated.count_total, 0);
}

#[test]
fn a_body_of_one_frame_costs_one_allocation() {
    let pool = BytePool::new(LIMIT);
    let body = Full::new(Bytes::from_static(b"amount=12"));

    let allocated = measure(|| {
        let (mut replay, mut first) = Replay::new(body, LIMIT, &pool);
        assert!(matches!(next(&mut first), Some(Ok(_))));
        assert!(first.is_end_stream());
        let mut second = replay.again().unwrap();
        assert!(matches!(next(&mut second), Some(Ok(_))));
    });

    assert_eq!(allocated.count_total, 1);
    assert_eq!(pool.available(), LIMIT);
}

#[test]
fn bytes_are_shared_not_copied() {
    let data = Bytes::from(vec![7; 1000]);
    let address = data.as_ptr();
    let (mut replay, mut first) = split(Original::of([Item::Data(data)]));

    let Polled::Item(Item::Data(sent)) = poll(&mut first) else {
        panic!("no data came");
    };
    let Polled::Item(Item::Data(sent_again)) = poll(&mut replay.again().unwrap()) else {
        panic!("no data came again");
    };

    assert_eq!((sent.as_ptr(), sent_again.as_ptr()), (address, address));
}

#[test]
fn nothing_is_read_ahead() {
    let original = Original::of([Item::data("one"), Item::data("two")]);
    let watch = original.watch();
    let (mut replay, mut body) = split(original);

    assert_eq!(watch.polls(), 0);
    assert_eq!(poll(&mut body), Polled::data("one"));
    assert_eq!(watch.polls(), 1);
    let mut second = replay.again().unwrap();
    assert_eq!(poll(&mut second), Polled::data("one"));
    assert_eq!(watch.polls(), 1);
}

#[test]
fn only_a_told_length_exceeds_the_limit() {
    let body = || Original::of([Item::data("four")]);

    assert!(Replay::exceeds(&body(), 3));
    assert!(!Replay::exceeds(&body(), 4));
    assert!(Replay::exceeds(&body().telling(Tells::AtLeast), 3));
    assert!(!Replay::exceeds(&body().telling(Tells::Nothing), 3));
}

#[test]
fn an_untouched_body_is_the_original() {
    let original = Original::of([Item::data("one"), Item::trailers("1")]);
    let mut body = ReplayBody::untouched(original);

    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    assert_eq!(read(&mut body), [Item::data("one"), Item::trailers("1")]);
    assert!(body.is_end_stream());
}

#[test]
fn a_default_body_is_empty() {
    let mut body = ReplayBody::<Original>::default();

    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
    assert_eq!(poll(&mut body), Polled::Ended);
}

#[test]
fn what_is_freed_may_come_back_to_the_cell() {
    let earlier = Arc::new(Mutex::new(None::<ReplayBody<Original>>));
    let owner = DropsAnAttempt(Arc::clone(&earlier));
    let frame = Item::Data(Bytes::from_owner(owner));
    let (mut replay, mut first) = split(Original::of([frame, Item::data("two")]));
    assert!(matches!(poll(&mut first), Polled::Item(_)));
    let mut second = replay.again().unwrap();
    *earlier.lock().unwrap() = Some(first);
    assert!(matches!(poll(&mut second), Polled::Item(_)));

    drop(replay);

    assert!(earlier.lock().unwrap().is_none());
    assert_eq!(read(&mut second), [Item::data("two")]);
}

#[test]
fn contents_are_not_in_the_debug_output() {
    let (replay, mut body) = split(Original::of([Item::data("secret")]));
    poll(&mut body);

    let debug = format!("{replay:?} {body:?}");

    assert!(!debug.contains("secret"));
    assert!(debug.contains("ReplayBody"));
}

#[test]
fn both_halves_may_cross_threads() {
    fn is_send_sync<T: Send + Sync + Unpin + 'static>() {}
    fn is_send<T: Send + Unpin + 'static>() {}

    is_send_sync::<Replay<OnlySend>>();
    is_send::<ReplayBody<OnlySend>>();
    is_send_sync::<ReplayBody<Original>>();
}

type OnlySend = Cell<u8>;

struct DropsAnAttempt(Arc<Mutex<Option<ReplayBody<Original>>>>);

impl AsRef<[u8]> for DropsAnAttempt {
    fn as_ref(&self) -> &[u8] {
        b"one"
    }
}

impl Drop for DropsAnAttempt {
    fn drop(&mut self) {
        self.0.lock().unwrap().take();
    }
}

struct TellsItsDrop(&'static str, Arc<AtomicBool>);

impl AsRef<[u8]> for TellsItsDrop {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Drop for TellsItsDrop {
    fn drop(&mut self) {
        self.1.store(true, Ordering::SeqCst);
    }
}

/// A frame that tells when nobody holds its bytes.
fn owned(data: &'static str) -> (Item, Arc<AtomicBool>) {
    let is_freed = Arc::new(AtomicBool::new(false));
    let owner = TellsItsDrop(data, Arc::clone(&is_freed));
    (Item::Data(Bytes::from_owner(owner)), is_freed)
}

fn split(original: Original) -> (Replay<Original>, ReplayBody<Original>) {
    Replay::new(original, LIMIT, &BytePool::new(LIMIT))
}
