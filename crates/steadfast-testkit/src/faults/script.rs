use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

/// A method of the store port that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    /// [`Store::abandon`](steadfast_store::Store::abandon)
    Abandon,
    /// [`Store::begin`](steadfast_store::Store::begin)
    Begin,
    /// [`Store::complete`](steadfast_store::Store::complete)
    Complete,
    /// [`Store::list_indeterminate`](steadfast_store::Store::list_indeterminate)
    ListIndeterminate,
    /// [`Store::look_up`](steadfast_store::Store::look_up)
    LookUp,
    /// [`Store::reap`](steadfast_store::Store::reap)
    Reap,
    /// [`Store::release`](steadfast_store::Store::release)
    Release,
    /// [`Store::renew`](steadfast_store::Store::renew)
    Renew,
    /// [`Store::resolve`](steadfast_store::Store::resolve)
    Resolve,
    /// [`Store::show`](steadfast_store::Store::show)
    Show,
}

impl Method {
    /// Every method, in alphabetical order.
    pub const ALL: [Self; 10] = [
        Self::Abandon,
        Self::Begin,
        Self::Complete,
        Self::ListIndeterminate,
        Self::LookUp,
        Self::Reap,
        Self::Release,
        Self::Renew,
        Self::Resolve,
        Self::Show,
    ];
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    After,
    Before,
}

#[derive(Clone, Debug)]
pub(super) enum Fault {
    Delay(Duration),
    FailUnsent,
    Hold(Place, Arc<Door>),
    LoseAcknowledgement,
    LoseRequest,
    Misconfigure,
    Refuse,
}

#[derive(Debug)]
struct Line {
    /// `None` lets the call through.
    fault: Option<Fault>,
    left: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    calls: u64,
    answers: u64,
    drops: u64,
}

#[derive(Debug, Default)]
struct State {
    scripts: HashMap<Method, VecDeque<Line>>,
    counts: HashMap<Method, Counts>,
}

/// Scripts a [`FaultyStore`](super::FaultyStore), and counts its calls. Clones are handles on the same script.
#[derive(Clone)]
pub struct Faults {
    // A std mutex: no await happens under it.
    state: Arc<Mutex<State>>,
    changed: watch::Sender<()>,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("state", &*self.state())
            .finish_non_exhaustive()
    }
}

impl Faults {
    /// Adds to the script of a method: what its next calls do, behind what was scripted before.
    #[must_use = "a script without lines changes nothing"]
    pub fn on(&self, method: Method) -> Script<'_> {
        Script {
            faults: self,
            method,
        }
    }

    /// Forgets every script. Calls that are held stay held.
    pub fn heal(&self) {
        self.state().scripts.clear();
    }

    /// How many calls of the method were made, that is, first polled.
    #[must_use]
    pub fn calls(&self, method: Method) -> u64 {
        self.counts(method).calls
    }

    /// How many calls of the method were answered, with a value or an error.
    #[must_use]
    pub fn answers(&self, method: Method) -> u64 {
        self.counts(method).answers
    }

    /// How many calls of the method were dropped by their caller before they were answered.
    #[must_use]
    pub fn drops(&self, method: Method) -> u64 {
        self.counts(method).drops
    }

    /// Waits until the method was called at least `count` times since the store was made.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing when dropped.
    pub async fn called(&self, method: Method, count: u64) {
        self.until(|| self.calls(method) >= count).await;
    }

    /// Waits until at least `count` calls of the method were answered since the store was made.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing when dropped.
    pub async fn answered(&self, method: Method, count: u64) {
        self.until(|| self.answers(method) >= count).await;
    }

    async fn until(&self, reached: impl Fn() -> bool) {
        let mut changes = self.changed.subscribe();
        while !reached() {
            changes
                .changed()
                .await
                .expect("this handle keeps the sender");
        }
    }

    pub(super) fn enter(&self, method: Method) -> Call {
        self.count(method, |counts| counts.calls += 1);
        Call {
            faults: self.clone(),
            method,
            answered: false,
        }
    }

    /// Takes one use of the first line off the method's script.
    pub(super) fn next(&self, method: Method) -> Option<Fault> {
        let mut state = self.state();
        let script = state.scripts.get_mut(&method)?;
        let line = script.front_mut()?;
        let fault = line.fault.clone();
        if line.left != super::FOREVER {
            line.left -= 1;
            if line.left == 0 {
                script.pop_front();
            }
        }
        fault
    }

    fn push(&self, method: Method, fault: Option<Fault>, calls: u64) {
        if calls > 0 {
            let line = Line { fault, left: calls };
            self.state()
                .scripts
                .entry(method)
                .or_default()
                .push_back(line);
        }
    }

    fn count(&self, method: Method, step: impl FnOnce(&mut Counts)) {
        step(self.state().counts.entry(method).or_default());
        self.changed.send_replace(());
    }

    fn counts(&self, method: Method) -> Counts {
        self.state()
            .counts
            .get(&method)
            .copied()
            .unwrap_or_default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one call to its end, whichever end that is.
#[derive(Debug)]
pub(super) struct Call {
    faults: Faults,
    method: Method,
    answered: bool,
}

impl Call {
    pub(super) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let answered = self.answered;
        self.faults.count(self.method, |counts| {
            if answered {
                counts.answers += 1;
            } else {
                counts.drops += 1;
            }
        });
    }
}

/// What the next calls of one method do. Lines are used up in the order they were written; a call behind the last line goes
/// through. A line for no calls is no line, and one for [`FOREVER`](super::FOREVER) is never used up.
#[derive(Debug)]
pub struct Script<'a> {
    faults: &'a Faults,
    method: Method,
}

#[expect(
    clippy::return_self_not_must_use,
    reason = "the line is written, whether or not another follows"
)]
impl Script<'_> {
    /// The next calls go through.
    pub fn pass(self, calls: u64) -> Self {
        self.line(None, calls)
    }

    /// The next calls fail before anything reaches the store, and say so.
    pub fn fail_unsent(self, calls: u64) -> Self {
        self.line(Some(Fault::FailUnsent), calls)
    }

    /// The next calls fail without reaching the store, and cannot tell: the step may have been taken, for all they know.
    pub fn lose_request(self, calls: u64) -> Self {
        self.line(Some(Fault::LoseRequest), calls)
    }

    /// The next calls take their step, and fail all the same: the step may have been taken, for all they know.
    pub fn lose_acknowledgement(self, calls: u64) -> Self {
        self.line(Some(Fault::LoseAcknowledgement), calls)
    }

    /// The next calls are refused; nothing is changed.
    pub fn refuse(self, calls: u64) -> Self {
        self.line(Some(Fault::Refuse), calls)
    }

    /// The next calls fail because the store's set-up must be mended.
    pub fn misconfigure(self, calls: u64) -> Self {
        self.line(Some(Fault::Misconfigure), calls)
    }

    /// The next calls wait for so long, and then take their step.
    pub fn delay(self, calls: u64, delay: Duration) -> Self {
        self.line(Some(Fault::Delay(delay)), calls)
    }

    /// The next calls are held before their step: one that is dropped meanwhile has not taken it.
    pub fn hold_before(self, calls: u64) -> Gate {
        self.hold(Place::Before, calls)
    }

    /// The next calls take their step, and are held before they answer: one that is dropped meanwhile has taken it.
    pub fn hold_after(self, calls: u64) -> Gate {
        self.hold(Place::After, calls)
    }

    fn hold(self, place: Place, calls: u64) -> Gate {
        let door = Arc::new(Door::default());
        let _ = self.line(Some(Fault::Hold(place, Arc::clone(&door))), calls);
        Gate(door)
    }

    fn line(self, fault: Option<Fault>, calls: u64) -> Self {
        self.faults.push(self.method, fault, calls);
        self
    }
}

/// Where calls are held. It opens when it is told to, or dropped.
#[derive(Debug)]
#[must_use = "a gate opens when it is dropped"]
pub struct Gate(Arc<Door>);

impl Gate {
    /// Waits until a call has come to the gate.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing when dropped.
    pub async fn reached(&self) {
        self.reached_by(1).await;
    }

    /// Waits until so many calls have come to the gate, those that were dropped there since included.
    ///
    /// # Cancel safety
    ///
    /// Changes nothing when dropped.
    pub async fn reached_by(&self, calls: u64) {
        self.0
            .arrivals
            .subscribe()
            .wait_for(|arrivals| *arrivals >= calls)
            .await
            .expect("the gate keeps the sender");
    }

    /// How many calls have come to the gate.
    #[must_use]
    pub fn arrivals(&self) -> u64 {
        *self.0.arrivals.borrow()
    }

    /// Lets everyone through, now and later.
    pub fn open(&self) {
        self.0.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

#[derive(Debug)]
pub(super) struct Door {
    arrivals: watch::Sender<u64>,
    open: watch::Sender<bool>,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            arrivals: watch::Sender::new(0),
            open: watch::Sender::new(false),
        }
    }
}

impl Door {
    pub(super) async fn pass(&self) {
        self.arrivals.send_modify(|arrivals| *arrivals += 1);
        self.open
            .subscribe()
            .wait_for(|open| *open)
            .await
            .expect("the door keeps the sender");
    }
}
