//! The idempotency layer in front of a route of axum, over each store, beside the same route without it.

mod charges;
mod sides;

use std::time::Duration;

use self::{
    charges::Keys,
    sides::{Sides, StoreKind},
};
use crate::{
    BoxError,
    options::Options,
    requests::{Load, Point},
    spread::Spread,
    table::Table,
};

/// The percentage of the bare route's requests that the layer over the memory store must keep with new keys, and with how many
/// clients.
const BAR: f64 = 60.0;
const BAR_CLIENTS: usize = 64;

pub(crate) fn run(options: &Options) -> Result<String, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(report(options))
}

async fn report(options: &Options) -> Result<String, BoxError> {
    let plan = Plan::of(options);
    let sides = Sides::start(options.point).await?;

    let mut table = Table::new(
        2,
        [
            "clients",
            "side",
            "requests/s (min to max)",
            "p50 ms",
            "p99 ms",
            "% refused",
            "% of bare (min to max)",
        ],
    );
    let mut verdict = String::new();
    for &clients in plan.clients {
        let measured = compare(&sides, &plan, clients).await?;
        for side in &measured {
            table.row(side.row(clients));
        }
        if clients == BAR_CLIENTS {
            verdict = judge(&measured)?;
        }
    }

    let load = plan.load(0);
    Ok(format!(
        "## over-http: a route behind the layer, over loopback HTTP/1.1\n\n\
         {}.\n\
         {}.\n\
         Clients, each with a connection, share the runtime with the server, and their cost is part of every figure; so is that of\n\
         the allocator, which counts.\n\
         Rounds: {}. In each every side has {} ms to warm up, then {} ms that are measured. The bare route has its turn before\n\
         each store's two, and the percentage is of that neighbour. Figures are medians of the rounds.\n\
         Refused, and in no other figure: answers that a store on a disk was too slow for (503), or too slow to acknowledge.\n\n\
         {table}\n{verdict}",
        charges::description(),
        sides.description(),
        plan.rounds,
        load.warm_up.as_millis(),
        load.measured.as_millis(),
    ))
}

/// What is measured, and how often.
struct Plan {
    clients: &'static [usize],
    rounds: usize,
    measured: Duration,
}

impl Plan {
    const fn of(options: &Options) -> Self {
        Self {
            // More could run out of time at a slow disk while nothing is wrong.
            clients: if options.quick {
                &[1, 16]
            } else {
                &[1, 16, BAR_CLIENTS, 256]
            },
            rounds: if options.quick { 1 } else { 5 },
            measured: options.point,
        }
    }

    fn load(&self, clients: usize) -> Load {
        Load {
            clients,
            warm_up: self.measured / 5,
            measured: self.measured,
        }
    }
}

/// One side at one number of clients.
struct Measured {
    name: String,
    store: Option<(StoreKind, Keys)>,
    points: Vec<Point>,
    /// Percent of the bare route that was measured just before, in each round.
    of_bare: Vec<f64>,
}

impl Measured {
    fn of(store: Option<(StoreKind, Keys)>) -> Self {
        let name = match store {
            None => "bare route".to_owned(),
            Some((store, Keys::Replayed)) => format!("{}, replays", store.name()),
            Some((store, Keys::Ignored | Keys::New)) => format!("{}, new keys", store.name()),
        };
        Self {
            name,
            store,
            points: Vec::new(),
            of_bare: Vec::new(),
        }
    }

    fn row(&self, clients: usize) -> [String; 7] {
        let spread = |figure: fn(&Point) -> f64| Spread::of(self.points.iter().map(figure));
        let of_bare = if self.of_bare.is_empty() {
            String::new()
        } else {
            Spread::of(self.of_bare.iter().copied()).whole(1)
        };
        [
            format!("{clients:>7}"),
            self.name.clone(),
            spread(|point| point.requests_per_second).whole(0),
            spread(|point| point.p50.as_secs_f64() * 1e3).middle(3),
            spread(|point| point.p99.as_secs_f64() * 1e3).middle(3),
            spread(|point| point.answers.troubled()).middle(1),
            of_bare,
        ]
    }
}

/// Gives each side its turn in each round. The bare route comes first, and has its turn before each store.
async fn compare(sides: &Sides, plan: &Plan, clients: usize) -> Result<Vec<Measured>, BoxError> {
    let load = plan.load(clients);
    let mut bare = Measured::of(None);
    let mut layered: Vec<_> = StoreKind::ALL
        .into_iter()
        .flat_map(|store| [Keys::New, Keys::Replayed].map(|keys| Measured::of(Some((store, keys)))))
        .collect();
    for round in 1..=plan.rounds {
        eprintln!(
            "over-http: {clients} clients, round {round} of {}",
            plan.rounds
        );
        for pair in layered.chunks_mut(2) {
            let neighbour = sides.bare(load).await?;
            bare.points.push(neighbour);
            for side in pair {
                let Some((store, keys)) = side.store else {
                    continue;
                };
                let point = sides.layered(store, keys, load).await?;
                side.of_bare
                    .push(100.0 * point.requests_per_second / neighbour.requests_per_second);
                side.points.push(point);
            }
        }
    }
    layered.insert(0, bare);
    Ok(layered)
}

fn judge(measured: &[Measured]) -> Result<String, BoxError> {
    let memory = measured
        .iter()
        .find(|side| side.store == Some((StoreKind::Memory, Keys::New)))
        .ok_or("the memory store was not measured")?;
    let of_bare = Spread::of(memory.of_bare.iter().copied());
    let verdict = if of_bare.median >= BAR {
        "met"
    } else {
        "missed"
    };
    Ok(format!(
        "memory / bare at {BAR_CLIENTS}: {} %; the bar of {BAR} % is {verdict}\n",
        of_bare.whole(1)
    ))
}
