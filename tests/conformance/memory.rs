use steadfast::store::MemoryStore;
use steadfast_testkit::conformance::Bench;
use tokio::runtime::{Builder, Runtime};

/// Two workers and the real clock: races are real.
mod on_a_real_clock {
    use super::*;

    struct Memory(MemoryStore);

    impl Bench for Memory {
        type Store = MemoryStore;

        async fn set_up() -> Self {
            Self(MemoryStore::default())
        }

        fn store(&self) -> MemoryStore {
            self.0.clone()
        }
    }

    steadfast_testkit::conformance!(Memory);
}

/// One worker and tokio's paused clock: waiting takes no time.
mod on_a_paused_clock {
    use super::*;

    struct PausedMemory(MemoryStore);

    impl Bench for PausedMemory {
        type Store = MemoryStore;

        async fn set_up() -> Self {
            Self(MemoryStore::default())
        }

        fn store(&self) -> MemoryStore {
            self.0.clone()
        }

        fn runtime() -> Runtime {
            Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap()
        }
    }

    steadfast_testkit::conformance!(PausedMemory);
}
