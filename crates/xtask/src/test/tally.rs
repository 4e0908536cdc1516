//! What the test harness reported, added up over all its runs.

use std::fmt;

/// The sum of the `test result:` lines of libtest, and the names of the tests that failed.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    started: u32,
    reported: u32,
    passed: u32,
    failed: u32,
    ignored: u32,
    filtered_out: u32,
    failures: Vec<String>,
    /// Whether the list of failures of a run is being read.
    listing: bool,
}

impl Tally {
    /// Takes one line of output in.
    pub(crate) fn read(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(name) = line.strip_prefix("    ").filter(|_| self.listing) {
            self.failures.push(name.to_owned());
            return;
        }
        // The word opens two sections: the failures' output, after an empty line, and their names.
        self.listing = line == "failures:";

        if let Some((_, counts)) = line
            .strip_prefix("test result: ")
            .and_then(|result| result.split_once(". "))
        {
            self.reported += 1;
            self.add(counts);
        } else if line.starts_with("running ")
            && (line.ends_with(" test") || line.ends_with(" tests"))
        {
            self.started += 1;
        }
    }

    /// Whether a test failed, or a run ended before it could report.
    pub(crate) fn found_failure(&self) -> bool {
        self.failed > 0 || self.died() > 0
    }

    fn add(&mut self, counts: &str) {
        for part in counts.split("; ") {
            let Some((number, kind)) = part.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u32>() else {
                continue;
            };
            match kind {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                "filtered out" => self.filtered_out += number,
                _ => {}
            }
        }
    }

    fn died(&self) -> u32 {
        self.started.saturating_sub(self.reported)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            started,
            passed,
            failed,
            ignored,
            filtered_out,
            ..
        } = self;
        write!(
            f,
            "{passed} passed, {failed} failed, {ignored} ignored, {filtered_out} filtered out, in {started} runs"
        )?;
        if self.died() > 0 {
            write!(
                f,
                "; {} of the runs ended without a result, and its tests are not counted",
                self.died()
            )?;
        }
        for name in &self.failures {
            write!(f, "\n    failed: {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    fn tally(output: &str) -> Tally {
        let mut tally = Tally::default();
        for line in output.lines() {
            tally.read(line);
        }
        tally
    }

    #[test]
    fn results_of_all_runs_are_added_up() {
        let tally = tally(
            "running 2 tests\n\
             test a ... ok\n\
             test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 0.00s\n\
             running 1 test\n\
             test result: ok. 1 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );

        assert_eq!(
            tally.to_string(),
            "3 passed, 0 failed, 1 ignored, 3 filtered out, in 2 runs"
        );
        assert!(!tally.found_failure());
    }

    #[test]
    fn failed_tests_are_named() {
        let tally = tally(
            "running 2 tests\n\
             test claim::one_wins ... FAILED\n\
             test claim::others_wait ... ok\n\
             \n\
             failures:\n\
             \n\
             ---- claim::one_wins stdout ----\n\
             \x20   left: 1\n\
             \n\
             failures:\n\
             \x20   claim::one_wins\n\
             \n\
             test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n",
        );

        assert_eq!(
            tally.to_string(),
            "1 passed, 1 failed, 0 ignored, 0 filtered out, in 1 runs\n    failed: claim::one_wins"
        );
        assert!(tally.found_failure());
    }

    #[test]
    fn a_run_that_dies_is_not_taken_for_a_pass() {
        let tally = tally("running 2 tests\ntest a ... ok\n");

        assert!(tally.found_failure());
        assert!(
            tally
                .to_string()
                .contains("1 of the runs ended without a result")
        );
    }
}
