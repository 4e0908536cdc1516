//! The layers of a server, a circuit breaker and idempotency, in front of a route of axum, over each store, beside the same route
//! without them.

mod charges;
mod floor;
mod sides;

use std::{fmt::Write, time::Duration};

use self::{charges::Keys, sides::Sides};
use crate::{
    BoxError, Report,
    options::Options,
    requests::{Load, Point},
    spread::Spread,
    table::Table,
};

pub(crate) use self::sides::StoreKind;

/// The percentage of the bare route's requests that the layers over the memory store must keep with new keys, and with how many
/// clients.
const BAR: f64 = 55.0;
const BAR_CLIENTS: usize = 64;

pub(crate) fn run(options: &Options) -> Result<Report, BoxError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(report(options))
}

async fn report(options: &Options) -> Result<Report, BoxError> {
    let plan = Plan::of(options);
    let sides = Sides::start(&plan.stores, options.point).await?;

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
    let mut bar = None;
    for &clients in &plan.clients {
        let compared = compare(&sides, &plan, clients).await?;
        for side in compared.sides() {
            table.row(side.row(clients));
        }
        if clients == BAR_CLIENTS {
            bar = compared.bar();
        }
    }

    let load = plan.load(0);
    let mut text = format!(
        "## over-http: a route behind circuit breaker and idempotency, over loopback HTTP/1.1\n\n\
         {}.\n\
         {}.\n\
         Clients, each with a connection, share the runtime with the server, and their cost is part of every figure; so is that of\n\
         the allocator, which counts. `client alone` are the same clients before an empty server of hyper: no axum, no JSON.\n\
         Rounds: {}.\n\
         In each every side has {} ms to warm up, then {} ms that are measured. The bare route has its turn before each store's two,\n\
         the client alone before the first of these, and the percentage is of that neighbour. Figures are medians of the rounds.\n\
         Refused, and in no other figure: answers that a store on a disk was too slow for (503), or too slow to acknowledge.\n\n\
         {table}\n",
        charges::description(),
        sides.description(),
        plan.rounds(),
        load.warm_up.as_millis(),
        load.measured.as_millis(),
    );
    let mut missed = None;
    if let Some(bar) = bar {
        write!(text, "{bar}")?;
        if plan.is_judged {
            let verdict = if bar.is_met() { "met" } else { "missed" };
            writeln!(text, "The bar of {BAR} % is {verdict}.")?;
            missed = (!bar.is_met()).then(|| {
                let median = bar.kept.median;
                format!("memory / bare at {BAR_CLIENTS}: {median:.1} % instead of {BAR} %")
            });
        }
    }
    Ok(Report { text, missed })
}

/// What is measured, and how often.
struct Plan {
    stores: Vec<StoreKind>,
    clients: Vec<usize>,
    measured: Duration,
    /// Has the rounds that a figure needs which is to mean something.
    is_judged: bool,
}

impl Plan {
    const ROUNDS: usize = 5;
    /// Of what the bar is about: half of them lie within a narrower span.
    const BAR_ROUNDS: usize = 9;

    fn of(options: &Options) -> Self {
        // More could run out of time at a slow disk while nothing is wrong.
        let usual: &[usize] = if options.quick {
            &[1, 16]
        } else {
            &[1, 16, BAR_CLIENTS, 256]
        };
        Self {
            stores: options.stores.clone(),
            clients: options.clients.clone().unwrap_or_else(|| usual.to_vec()),
            measured: options.point,
            is_judged: !options.quick,
        }
    }

    fn rounds_of(&self, store: StoreKind, clients: usize) -> usize {
        match (self.is_judged, store, clients) {
            (false, _, _) => 1,
            (true, StoreKind::Memory, BAR_CLIENTS) => Self::BAR_ROUNDS,
            (true, _, _) => Self::ROUNDS,
        }
    }

    /// In words.
    fn rounds(&self) -> String {
        if self.is_judged {
            format!(
                "{}, and {} of the memory store at {BAR_CLIENTS} clients",
                Self::ROUNDS,
                Self::BAR_ROUNDS
            )
        } else {
            "1".to_owned()
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
    points: Vec<Point>,
    /// The bare route's, each of the same turn; none for the bare route itself.
    neighbours: Vec<Point>,
}

impl Measured {
    fn of(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            points: Vec::new(),
            neighbours: Vec::new(),
        }
    }

    fn push(&mut self, point: Point, neighbour: Point) {
        self.points.push(point);
        self.neighbours.push(neighbour);
    }

    /// Percent of its neighbour's requests per second.
    fn of_bare(&self) -> Option<Spread> {
        let rounds = self.points.iter().zip(&self.neighbours);
        (!self.neighbours.is_empty()).then(|| {
            Spread::of(
                rounds
                    .map(|(own, bare)| 100.0 * own.requests_per_second / bare.requests_per_second),
            )
        })
    }

    fn row(&self, clients: usize) -> [String; 7] {
        let spread = |figure: fn(&Point) -> f64| Spread::of(self.points.iter().map(figure));
        [
            format!("{clients:>7}"),
            self.name.clone(),
            spread(|point| point.requests_per_second).whole(0),
            spread(|point| point.p50.as_secs_f64() * 1e3).middle(3),
            spread(|point| point.p99.as_secs_f64() * 1e3).middle(3),
            spread(|point| point.answers.troubled()).middle(1),
            self.of_bare()
                .map_or_else(String::new, |of_bare| of_bare.whole(1)),
        ]
    }
}

/// The two sides of one store.
struct Layered {
    store: StoreKind,
    new_keys: Measured,
    replays: Measured,
}

impl Layered {
    fn of(store: StoreKind) -> Self {
        let name = store.name();
        Self {
            store,
            new_keys: Measured::of(format!("{name}, new keys")),
            replays: Measured::of(format!("{name}, replays")),
        }
    }
}

/// All sides at one number of clients.
struct Compared {
    floor: Measured,
    bare: Measured,
    layered: Vec<Layered>,
}

impl Compared {
    fn sides(&self) -> impl Iterator<Item = &Measured> {
        let layered = self.layered.iter();
        [&self.floor, &self.bare]
            .into_iter()
            .chain(layered.flat_map(|store| [&store.new_keys, &store.replays]))
    }

    /// `None` if the memory store was not measured.
    fn bar(&self) -> Option<Bar> {
        let memory = self
            .layered
            .iter()
            .find(|layered| layered.store == StoreKind::Memory)?;
        let memory = &memory.new_keys;
        let time = |point: &Point| point.requests_per_second.recip();
        // The memory store is the first of a round: its neighbour is the floor's too.
        let rounds = self
            .floor
            .points
            .iter()
            .zip(&memory.neighbours)
            .zip(&memory.points);
        let of_server = rounds.map(|((floor, bare), memory)| {
            100.0 * (time(bare) - time(floor)) / (time(memory) - time(floor))
        });
        Some(Bar {
            kept: memory.of_bare()?,
            of_server: Spread::of(of_server),
        })
    }
}

/// Gives each side its turn in each round. The bare route has its turn before each store, the client alone before the first.
async fn compare(sides: &Sides, plan: &Plan, clients: usize) -> Result<Compared, BoxError> {
    let load = plan.load(clients);
    let mut compared = Compared {
        floor: Measured::of("client alone"),
        bare: Measured::of("bare route"),
        layered: plan.stores.iter().copied().map(Layered::of).collect(),
    };
    let rounds_of = |store| plan.rounds_of(store, clients);
    let rounds = plan.stores.iter().copied().map(rounds_of).max();
    for round in 1..=rounds.unwrap_or_default() {
        eprintln!("over-http: {clients} clients, round {round}");
        let mut floor = Some(sides.floor(load).await?);
        for layered in &mut compared.layered {
            let store = layered.store;
            if round > rounds_of(store) {
                continue;
            }
            let bare = sides.bare(load).await?;
            compared.bare.points.push(bare);
            if let Some(floor) = floor.take() {
                compared.floor.push(floor, bare);
            }
            let point = sides.layered(store, Keys::New, load).await?;
            layered.new_keys.push(point, bare);
            let point = sides.layered(store, Keys::Replayed, load).await?;
            layered.replays.push(point, bare);
        }
    }
    Ok(compared)
}

/// What the layers over the memory store leave of a route, in percent.
struct Bar {
    /// Of the requests per second.
    kept: Spread,
    /// Of the server's part of a request.
    of_server: Spread,
}

impl Bar {
    fn is_met(&self) -> bool {
        self.kept.median >= BAR
    }
}

impl std::fmt::Display for Bar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kept, of_server } = self;
        writeln!(
            f,
            "memory / bare at {BAR_CLIENTS}: {} %; with the floor taken off {} %\n\n\
             The first is requests per second: what a service keeps that shares its cores with its clients, and more than a server\n\
             alone keeps, for the clients cost the same on both sides.\n\
             The second is (t_bare - t_floor) / (t_memory - t_floor), t being the time for a request and the floor the client alone:\n\
             what the route itself costs, of what route and layers cost. Sockets, HTTP and clients are in neither.\n",
            kept.whole(1),
            of_server.whole(1),
        )
    }
}
