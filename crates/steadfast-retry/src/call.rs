use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use steadfast_core::{
    budget::{self, Budget},
    retry::{Decision, Facts, Progress, StoppedBy},
    verdict::{Hint, SafetyClass, Verdict},
};
use steadfast_http::problem::Code;
use tokio::time::{Instant, sleep_until};
use tower_service::Service;
use tracing::Instrument;

use crate::{
    exchange::{AttemptOf, ErrorOf, Exchange, ResponseOf, ResultOf},
    limit::{Limit, Times, until},
    outcome::RetryOutcome,
    shared::Shared,
    signal,
};

/// One call, from its first attempt to its end.
pub(crate) struct Call<X> {
    exchange: X,
    progress: Progress,
    times: Times,
    /// What cuts the attempt that is under way.
    limit: Option<Limit>,
}

/// The rest of a call, from its second attempt on.
pub(crate) type Rest<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Where a call stands after its first attempt.
pub(crate) enum Next<T> {
    Ended(T),
    Again(Rest<T>),
}

/// How an attempt ended.
pub(crate) enum Ended<X: Exchange> {
    Finished(ResultOf<X>, Verdict),
    Cut(Limit),
}

impl<X: Exchange> Ended<X> {
    /// A layer beneath that was told of the limit, as tonic's `Channel` is, may report it a moment before the layer's own timer: with
    /// an error or a response that the caller would not take for a time limit. That is a cut too.
    pub(crate) fn of(exchange: &X, finished: Option<ResultOf<X>>, limit: Option<Limit>) -> Self {
        let (result, limit) = match (finished, limit) {
            (Some(result), limit) => (result, limit),
            (None, Some(limit)) => return Self::Cut(limit),
            (None, None) => unreachable!("nothing but its limit ends an attempt without a result"),
        };
        let verdict = exchange.verdict(&result, limit);
        match limit {
            Some(limit) if X::is_cut(&result, verdict) && limit.is_imminent(Instant::now()) => {
                Self::Cut(limit)
            }
            Some(_) | None => Self::Finished(result, verdict),
        }
    }
}

/// Another attempt was granted.
struct Granted<X: Exchange> {
    delay: Duration,
    withdrawn: Withdrawn,
    recalled: X::Recalled,
}

impl<X> Call<X> {
    pub(crate) const fn new(exchange: X, times: Times, limit: Option<Limit>) -> Self {
        Self {
            exchange,
            progress: Progress::first(),
            times,
            limit,
        }
    }
}

impl<X> Call<X>
where
    X: Exchange + 'static,
    ResponseOf<X>: 'static,
    ErrorOf<X>: 'static,
{
    /// The first attempt, which nothing could cut, was no success.
    pub(crate) fn after_first(self, result: ResultOf<X>, verdict: Verdict) -> Next<X::Output> {
        self.after(Ended::Finished(result, verdict))
    }

    /// The first attempt is no more.
    pub(crate) fn after(mut self, ended: Ended<X>) -> Next<X::Output> {
        match self.conclude(&ended) {
            Ok(granted) => Next::Again(Box::pin(self.go_on(ended, granted))),
            Err(stopped_by) => Next::Ended(self.end(ended, stopped_by)),
        }
    }

    /// Makes attempts until one is the last.
    async fn go_on(mut self, mut ended: Ended<X>, mut granted: Granted<X>) -> X::Output {
        let mut service = None;
        loop {
            let service = service.get_or_insert_with(|| self.exchange.service());
            let granted_at = Instant::now();
            free(ended, granted.delay).await;
            // Even the shortest sleep lasts until the next tick of the timer.
            if !granted.delay.is_zero()
                && let Some(moment) = granted_at.checked_add(granted.delay)
            {
                sleep_until(moment).await;
            }
            match until(self.times.last_start(), ready::<X>(service)).await {
                None => return self.refuse_unready(),
                Some(Err(error)) => return self.end_unready(error),
                Some(Ok(())) => {}
            }
            let now = Instant::now();
            // A timer may be late, and a service that is ready wins over the moment until which it had to be.
            if self.times.remaining(now).is_zero() {
                return self.refuse_unready();
            }

            granted.withdrawn.spend();
            ended = self.attempt(service, granted.recalled, now).await;
            match self.conclude(&ended) {
                Ok(next) => granted = next,
                Err(stopped_by) => return self.end(ended, stopped_by),
            }
        }
    }

    /// Makes a further attempt on a service that is ready.
    async fn attempt(
        &mut self,
        service: &mut X::Service,
        recalled: X::Recalled,
        now: Instant,
    ) -> Ended<X> {
        self.limit = self.times.limit(now);
        let previous = self.progress.attempts() - 1;
        let request = self.exchange.again(recalled, previous, self.limit, now);
        let span = signal::attempt_span(previous);
        let attempt = span.in_scope(|| service.call(request));
        let finished = self.finish(attempt).instrument(span).await;
        Ended::of(&self.exchange, finished, self.limit)
    }

    /// The result of an attempt, unless its limit comes first.
    fn finish(
        &self,
        attempt: AttemptOf<X>,
    ) -> impl Future<Output = Option<ResultOf<X>>> + Send + use<X> {
        until(self.limit.map(|limit| limit.deadline().moment()), attempt)
    }

    /// Whether there is another attempt. The order of the questions is that of [`StoppedBy`]; the last one changes something.
    fn conclude(&mut self, ended: &Ended<X>) -> Result<Granted<X>, StoppedBy> {
        let verdict = match ended {
            Ended::Finished(_, verdict) => *verdict,
            Ended::Cut(_) => signal::ELAPSED.into(),
        };
        let shared = self.exchange.shared();
        self.tell_budget(ended, verdict);
        let failure = match verdict {
            Verdict::Success => return Err(StoppedBy::Success),
            Verdict::Failure(failure) => failure,
            Verdict::Ignored | _ => return Err(StoppedBy::Ignored),
        };

        let now = Instant::now();
        let facts = Facts::new(verdict)
            .with_idempotent(self.exchange.is_idempotent())
            .with_replayable(self.exchange.is_replayable())
            .with_remaining(self.times.remaining(now));
        let (delay, progress) = match shared
            .rules()
            .decide(self.progress, &facts, shared.sample())
        {
            Decision::Retry { delay, progress } => (delay, progress),
            Decision::Return(StoppedBy::Body) if self.exchange.was_unaffordable() => {
                return Err(StoppedBy::Budget);
            }
            Decision::Return(stopped_by) => return Err(stopped_by),
        };
        let withdrawn = Withdrawn::from(shared.budget(), now).ok_or(StoppedBy::Budget)?;
        let is_last = progress.attempts() >= shared.rules().max_attempts();
        let recalled = self.exchange.recall(is_last).ok_or(StoppedBy::Body)?;

        self.progress = progress;
        let signals = self.exchange.shared().signals();
        signals.retrying(failure, progress.attempts(), delay);
        Ok(Granted {
            delay,
            withdrawn,
            recalled,
        })
    }

    /// What gRPC's throttle counts as failed (gRFC A6): what a retry might heal, and what its server wants no retry of. A deadline of
    /// the caller's own says nothing of the server, nor does what was never processed.
    fn tell_budget(&self, ended: &Ended<X>, verdict: Verdict) {
        let Some(budget) = self.exchange.shared().budget() else {
            return;
        };
        match (verdict, ended) {
            (Verdict::Success, _) => budget.succeeded(),
            (Verdict::Failure(_), Ended::Cut(limit)) if !limit.is_of_attempt() => {}
            (Verdict::Failure(failure), _) => {
                if failure.class() == SafetyClass::Transient || failure.hint() == Some(Hint::Stop) {
                    budget.failed();
                }
            }
            (Verdict::Ignored | _, _) => {}
        }
    }

    fn end(self, ended: Ended<X>, stopped_by: StoppedBy) -> X::Output {
        let outcome = self.outcome(stopped_by);
        match ended {
            Ended::Finished(result, _) => self.exchange.finish(result, outcome),
            Ended::Cut(limit) => self.exchange.refuse(limit.code(), outcome),
        }
    }

    /// The service was not ready in time. The attempt it was wanted for was never made.
    fn refuse_unready(mut self) -> X::Output {
        self.progress = self.progress.without_last();
        let outcome = self.outcome(StoppedBy::Deadline);
        self.exchange.refuse(Code::DeadlinePassed, outcome)
    }

    fn end_unready(mut self, error: ErrorOf<X>) -> X::Output {
        self.progress = self.progress.without_last();
        let outcome = self.outcome(StoppedBy::Unready);
        self.exchange.finish(Err(error), outcome)
    }

    fn outcome(&self, stopped_by: StoppedBy) -> RetryOutcome {
        let outcome = RetryOutcome::new(self.progress.attempts(), stopped_by);
        self.exchange.shared().signals().stopped(outcome);
        outcome
    }
}

async fn free<X: Exchange>(ended: Ended<X>, time: Duration) {
    match ended {
        Ended::Finished(result, _) => X::free(result, time).await,
        Ended::Cut(_) => {}
    }
}

async fn ready<X: Exchange>(service: &mut X::Service) -> Result<(), ErrorOf<X>> {
    std::future::poll_fn(|cx| service.poll_ready(cx)).await
}

/// The first attempt was a success, with which the call ends.
pub(crate) fn succeed(shared: &Shared) -> RetryOutcome {
    if let Some(budget) = shared.budget() {
        budget.succeeded();
    }
    let outcome = RetryOutcome::new(1, StoppedBy::Success);
    shared.signals().stopped(outcome);
    outcome
}

/// A retry that was taken from the budget, and goes back unless it is made.
struct Withdrawn {
    taken: Option<(Arc<Budget>, budget::Withdrawal)>,
}

impl Withdrawn {
    /// `None` if the budget refuses. Without a budget nothing is taken.
    fn from(budget: Option<&Arc<Budget>>, now: Instant) -> Option<Self> {
        let taken = match budget {
            None => None,
            Some(budget) => Some((Arc::clone(budget), budget.withdraw(now.into_std())?)),
        };
        Some(Self { taken })
    }

    fn spend(&mut self) {
        self.taken = None;
    }
}

impl Drop for Withdrawn {
    fn drop(&mut self) {
        if let Some((budget, withdrawal)) = self.taken.take() {
            budget.give_back(withdrawal);
        }
    }
}
