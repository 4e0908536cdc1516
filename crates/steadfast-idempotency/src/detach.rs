use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use metrics::Gauge;
use tokio::runtime::Handle;
use tracing::{Instrument, Span};

use crate::metrics::Counted;

/// Work that outlives its caller.
///
/// It is polled where it stands, so that on the happy path it moves to no other task, and panics and task-locals stay as they are
/// without it. Dropped before it is done, it goes on in a task of its own. There is no task when it panicked itself or the
/// runtime is gone: then a claim is left to its lease.
pub(crate) struct Detached<T: Send + 'static> {
    work: Option<Pin<Box<dyn Future<Output = T> + Send>>>,
    /// Set while the work is polled: dropped with it, the work has panicked.
    polling: bool,
    span: Span,
    /// Counts it once it goes on by itself.
    tasks: Gauge,
}

impl<T: Send + 'static> Detached<T> {
    pub(crate) fn new(work: impl Future<Output = T> + Send + 'static, tasks: Gauge) -> Self {
        Self {
            work: Some(Box::pin(work)),
            polling: false,
            span: Span::current(),
            tasks,
        }
    }
}

impl<T: Send + 'static> Future for Detached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let work = this.work.as_mut().expect("polled after it was ready");
        this.polling = true;
        let poll = work.as_mut().poll(cx);
        this.polling = false;
        if poll.is_ready() {
            self.work = None;
        }
        poll
    }
}

impl<T: Send + 'static> Drop for Detached<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take() else {
            return;
        };
        if self.polling {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let counted = Counted::new(&self.tasks);
            let work = async move {
                let _counted = counted;
                work.await
            };
            drop(runtime.spawn(work.instrument(self.span.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
    };

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_that_is_dropped_goes_on() {
        let (start, started) = oneshot::channel::<()>();
        let (finish, finished) = oneshot::channel();
        let work = async move {
            started.await.unwrap();
            finish.send(()).unwrap();
        };

        drop(Detached::new(work, Gauge::noop()));

        start.send(()).unwrap();
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_beside_the_work_does_not_end_it() {
        let (finish, finished) = oneshot::channel();
        let work = Detached::new(
            async move {
                tokio::task::yield_now().await;
                finish.send(()).unwrap();
            },
            Gauge::noop(),
        );

        let beside = tokio::spawn(async move {
            let _work = work;
            panic!("a sibling in the same task");
        });

        assert!(beside.await.unwrap_err().is_panic());
        finished.await.unwrap();
    }

    #[tokio::test]
    async fn work_that_panicked_is_not_polled_again() {
        let polls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&polls);
        let work = Detached::new(
            poll_fn(move |_| -> Poll<()> {
                counted.fetch_add(1, Ordering::Relaxed);
                panic!("the work itself");
            }),
            Gauge::noop(),
        );

        assert!(tokio::spawn(work).await.unwrap_err().is_panic());

        tokio::task::yield_now().await;
        assert_eq!(polls.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn work_that_is_done_spawns_nothing() {
        let tasks = || Handle::current().metrics().num_alive_tasks();
        let before = tasks();

        assert_eq!(Detached::new(async { 7 }, Gauge::noop()).await, 7);

        assert_eq!(tasks(), before);
    }

    #[test]
    fn without_a_runtime_the_work_is_dropped() {
        let (sender, mut receiver) = oneshot::channel::<()>();
        let work = async move {
            let _sender = sender;
            std::future::pending::<()>().await;
        };

        drop(Detached::new(work, Gauge::noop()));

        assert_eq!(
            receiver.try_recv(),
            Err(oneshot::error::TryRecvError::Closed)
        );
    }
}
