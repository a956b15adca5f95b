//! The member's own file, read again: what SIGHUP does, with an answer.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use tokio::sync::oneshot;

use super::{Control, Refuse};
use crate::configure::ReloadAnswer;

/// The file is checked by PostgreSQL's own program, twice at most.
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) async fn reload(State(control): State<Control>) -> Result<Json<ReloadAnswer>, Refuse> {
    let (ask, answer) = oneshot::channel();
    let unable = || Refuse::failed("the member does not read its file now").remedy("ask again");
    control.configure.asks.send(Some(ask)).await.map_err(|_| unable())?;
    match tokio::time::timeout(PATIENCE, answer).await {
        Ok(Ok(answer)) => answer.map(Json).map_err(Refuse::bad_input),
        _ => Err(unable()),
    }
}
