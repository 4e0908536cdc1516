use std::sync::Arc;

use crate::TableName;

/// The text of every transition, with the table's name in it.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) abandon: Arc<str>,
    pub(crate) begin: Arc<str>,
    pub(crate) complete: Arc<str>,
    pub(crate) list_indeterminate: Arc<str>,
    pub(crate) look_up: Arc<str>,
    pub(crate) reap: Arc<str>,
    pub(crate) release: Arc<str>,
    pub(crate) renew: Arc<str>,
    pub(crate) resolve_complete: Arc<str>,
    pub(crate) resolve_release: Arc<str>,
    pub(crate) show: Arc<str>,
}

impl Statements {
    pub(crate) fn new(table: &TableName) -> Self {
        let on = |template| table.render(template).into();
        Self {
            abandon: on(include_str!("../sql/abandon.sql")),
            begin: on(include_str!("../sql/begin.sql")),
            complete: on(include_str!("../sql/complete.sql")),
            list_indeterminate: on(include_str!("../sql/list_indeterminate.sql")),
            look_up: on(include_str!("../sql/look_up.sql")),
            reap: on(include_str!("../sql/reap.sql")),
            release: on(include_str!("../sql/release.sql")),
            renew: on(include_str!("../sql/renew.sql")),
            resolve_complete: on(include_str!("../sql/resolve_complete.sql")),
            resolve_release: on(include_str!("../sql/resolve_release.sql")),
            show: on(include_str!("../sql/show.sql")),
        }
    }
}
