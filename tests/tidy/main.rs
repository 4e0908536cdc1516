//! Reads the workspace and fails where it has left the house style. Each message says how to mend it.

mod arrows;
mod dependencies;
mod documents;
mod files;
mod gates;
mod manifests;
mod sources;
mod versions;
mod workspace;
