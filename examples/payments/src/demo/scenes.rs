//! The scenes, in the order of playing. A new one is a file here and a line in [`SCENES`].

mod double_click;
mod ended_in_mid_charge;
mod flapping_provider;
mod herd;
mod killed_in_mid_charge;
mod lost_response;
mod many_shops;
mod open_circuit;
mod passing_fault;
mod slow_provider;
mod timeout;
mod two_processes;

use std::{collections::HashSet, pin::Pin, time::Duration};

use tokio::task::JoinSet;

use super::{
    answer::Answer,
    clients::{Clients, Order},
    processes::Process,
    stage::Stage,
};
use crate::failure::Failure;

pub(super) const SCENES: [Scene; 12] = [
    double_click::SCENE,
    passing_fault::SCENE,
    flapping_provider::SCENE,
    open_circuit::SCENE,
    timeout::SCENE,
    lost_response::SCENE,
    slow_provider::SCENE,
    killed_in_mid_charge::SCENE,
    ended_in_mid_charge::SCENE,
    herd::SCENE,
    many_shops::SCENE,
    two_processes::SCENE,
];

/// The layer's own default, longer than any scene: only the scene of a lost process waits for the end of a lease.
const LEASE: Duration = Duration::from_secs(30);

/// How often an API of the demo calls the provider for one execution, at most.
pub(super) const ATTEMPTS: u64 = 3;

/// One promise, and how it is tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene {
    /// Two or three words.
    pub(super) name: &'static str,
    /// What holds whatever happens, in a line of the summary.
    pub(super) promise: &'static str,
    /// What every client of the scene asks for, or one of them.
    pub(super) order: Order,
    /// How many orders clients ask for, each of which is one charge: so many has the provider made at the end, not fewer.
    pub(super) charges: usize,
    /// How often the provider is asked for them, if no client is told 503. Each 503 may stand for as many more as an API makes
    /// [attempts](ATTEMPTS), but for none if it says that the circuit is open.
    pub(super) calls: u64,
    /// Returns the APIs that still run. Fails if the scene could not be played, and not if its promise broke.
    pub(super) play: fn(&mut Stage) -> Playing<'_>,
}

type Playing<'a> = Pin<Box<dyn Future<Output = Result<Vec<Process>, Failure>> + Send + 'a>>;

/// What one client of a crowd was told in the end, and by which of the APIs.
struct Told {
    api: usize,
    answer: Option<Answer>,
}

/// So many clients ask for one order at once, spread over the APIs, until each has an answer.
async fn crowd(
    clients: &Clients,
    size: usize,
    apis: &[&str],
    order: Order,
) -> Result<Vec<Told>, Failure> {
    let mut asking = JoinSet::new();
    for number in 0..size {
        let api = number % apis.len();
        let (clients, address) = (clients.clone(), apis[api].to_owned());
        asking.spawn(async move {
            let mut answers = clients.ask_until_answered(&address, order).await;
            Told {
                api,
                answer: answers.pop().flatten(),
            }
        });
    }
    let mut told = Vec::with_capacity(size);
    while let Some(one) = asking.join_next().await {
        told.push(one.map_err(|lost| Failure::because("a client panicked", lost))?);
    }
    Ok(told)
}

/// Says what a crowd with one order was told, and notes who was left without its charge.
fn tell_crowd(stage: &mut Stage, order: Order, told: &[Told]) -> Result<(), Failure> {
    let charged: Vec<&Answer> = told
        .iter()
        .filter_map(|told| told.answer.as_ref())
        .filter(|answer| answer.is_charged())
        .collect();
    let replayed = |answer: &&&Answer| answer.replayed == Some(true);
    let (replays, all) = (charged.iter().filter(replayed).count(), charged.len());
    let sent = stage.clients.sent_for(order);
    let pending = sent
        .iter()
        .filter_map(|sent| sent.answer.as_ref())
        .filter(|answer| answer.may_pass())
        .count();
    stage.tell(
        "",
        &format!(
            "get {all} times 201, {} of them Idempotent-Replayed: false and {replays} true",
            all - replays
        ),
    )?;
    if pending > 0 {
        stage.tell(
            "",
            &format!("were told {pending} times to come back (Retry-After), and did"),
        )?;
    }
    let bodies: HashSet<_> = charged.iter().map(|answer| &answer.body).collect();
    let bodies = match bodies.len() {
        1 => "byte for byte the same".to_owned(),
        different => format!("{different} different ones"),
    };
    stage.tell("", &format!("the bodies of these answers: {bodies}"))?;
    stage.expect(all == told.len(), "not every client got its charge");
    Ok(())
}
