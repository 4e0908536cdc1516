//! One figure, measured once in each round.

/// The middle of the rounds' figures, and how far they lie apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// # Panics
    ///
    /// If there is no figure.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let last = figures.len() - 1;
        Self {
            median: f64::midpoint(figures[last / 2], figures[figures.len() / 2]),
            least: figures[0],
            most: figures[last],
        }
    }

    /// The median.
    pub(crate) fn middle(&self, decimals: usize) -> String {
        format!("{:.decimals$}", self.median)
    }

    /// `median (least to most)`: a dash would hide a minus.
    pub(crate) fn whole(&self, decimals: usize) -> String {
        let Self {
            median,
            least,
            most,
        } = self;
        format!("{median:.decimals$} ({least:.decimals$} to {most:.decimals$})")
    }
}
