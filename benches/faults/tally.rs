//! Counts every call, and says which must not be: a wrong answer, a broken connection, an error without a cause.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::attempts::{Asked, Attempts, Told};
use crate::check::{Failure, Said, Verdict};
use crate::client::Call;
use crate::dialogue::Trouble;
use crate::report::{Cell, Report};
use crate::stats::Series;

/// The code of calls whose app-server was lost under them.
const LOST: &str = "app_server_connection_lost";

/// What an app-server that is killed, stopped or cut off makes of calls, and how long after it may still make it of
/// new ones: another one must start, or what has waited be worked off.
const OF_APP_SERVER: [(&str, Duration); 5] = [
    (LOST, Duration::from_secs(1)),
    ("lost_turn", Duration::from_secs(1)),
    ("app_server_unavailable", Duration::from_secs(10)),
    ("server_overloaded", Duration::from_secs(10)),
    ("timeout", Duration::from_secs(10)),
];

/// How long after a fault a call that begins may still be sent to the app-server that has it.
const AFTERMATH: Duration = Duration::from_secs(1);

/// The count. Written by every caller.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    kinds: BTreeMap<String, Row>,
    /// By code and what it came of.
    errors: BTreeMap<(String, String), u64>,
    troubles: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    /// When the app-server was at fault.
    weather: Vec<Spell>,
    violations: Vec<String>,
    calls: u64,
    /// Calls that can be told from each other by what reached the model.
    asked: Vec<Asked>,
}

#[derive(Debug, Default)]
struct Row {
    calls: u64,
    right: u64,
    failed: u64,
    left: u64,
    wrong: u64,
    /// Of right answers.
    took: Series,
}

#[derive(Debug)]
struct Spell {
    name: &'static str,
    /// The connection to it is lost.
    breaks: bool,
    from: Instant,
    /// `None` while it lasts.
    to: Option<Instant>,
}

impl Tally {
    /// Counts a call; gives the answer if it is right.
    pub(crate) fn note(
        &self,
        kind: &str,
        trouble: Option<Trouble>,
        call: &Call,
        verdict: Verdict,
    ) -> Option<Said> {
        let mut counted = self.lock();
        counted.calls += 1;
        if let Some(trouble) = trouble {
            *counted.troubles.entry(trouble.name()).or_default() += 1;
        }
        let cause = match &verdict {
            Verdict::Failed(failure) => counted.cause(failure, trouble, call),
            _ => None,
        };
        let row = counted.kinds.entry(kind.to_owned()).or_default();
        row.calls += 1;
        let violation = match verdict {
            Verdict::Right(said) => {
                row.right += 1;
                row.took.push(call.ended - call.began);
                return Some(said);
            }
            Verdict::Left => {
                row.left += 1;
                return None;
            }
            Verdict::Failed(Failure { code, begun }) => {
                row.failed += 1;
                let named = cause.unwrap_or("NO CAUSE").to_owned();
                *counted.errors.entry((code.clone(), named)).or_default() += 1;
                let told = if begun { "after the answer had begun" } else { "of which nothing was told" };
                cause.is_none().then(|| format!("{kind}: {code}, {told}, without a cause ({trouble:?})"))
            }
            Verdict::Broken(why) => {
                row.wrong += 1;
                Some(format!("{kind}: the connection broke: {why}"))
            }
            Verdict::Wrong(why) => {
                row.wrong += 1;
                Some(format!("{kind}: {why} (trouble: {trouble:?})"))
            }
        };
        counted.violations.extend(violation);
        None
    }

    /// Keeps a call whose words begin with `tag`, for [`Tally::compare`].
    pub(crate) fn note_asked(&self, tag: &str, trouble: Option<Trouble>, call: &Call, verdict: &Verdict) {
        let asked = Asked {
            tag: tag.to_owned(),
            trouble,
            is_right: matches!(verdict, Verdict::Right(_)),
            began: call.began,
            ended: call.ended,
            trace: Told::of(call),
        };
        self.lock().asked.push(asked);
    }

    /// Compares the calls with what reached the model.
    pub(crate) fn compare(&self, attempts: &Attempts) {
        let mut counted = self.lock();
        let found = attempts.violations(&counted.asked, |began, ended| counted.felt(began, ended));
        counted.violations.extend(found);
    }

    /// The app-server is at fault from now on, and lost if that `breaks`; gives the number of the fault.
    pub(crate) fn fault_begins(&self, name: &'static str, breaks: bool) -> usize {
        let mut counted = self.lock();
        *counted.faults.entry(name).or_default() += 1;
        counted.weather.push(Spell { name, breaks, from: Instant::now(), to: None });
        counted.weather.len() - 1
    }

    /// No more.
    pub(crate) fn fault_ends(&self, number: usize) {
        if let Some(spell) = self.lock().weather.get_mut(number) {
            spell.to = Some(Instant::now());
        }
    }

    /// Something else was done to the bridge: it explains no error.
    pub(crate) fn harmless(&self, name: &'static str) {
        *self.lock().faults.entry(name).or_default() += 1;
    }

    pub(crate) fn calls(&self) -> u64 {
        self.lock().calls
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        self.lock().violations.clone()
    }

    /// Calls by kind, errors by code and cause, faults by kind.
    pub(crate) fn reports(&self, scenario: &'static str) -> Vec<Report> {
        let counted = self.lock();
        let mut calls =
            Report::new(scenario, vec!["calls", "right", "failed", "left", "wrong", "p50 ms", "p99 ms"]);
        let mut all = Row::default();
        for (kind, row) in &counted.kinds {
            calls.row(kind, row.cells());
            all.add(row);
        }
        calls.result("calls", Cell::count(all.calls));
        calls.result("right", Cell::count(all.right));
        calls.result("failed", Cell::count(all.failed));
        calls.result("left", Cell::count(all.left));
        calls.result("wrong", Cell::count(all.wrong));
        let mut errors = Report::new("errors", vec!["calls"]);
        for ((code, cause), count) in &counted.errors {
            errors.row(format!("{code} ({cause})"), vec![Cell::count(*count)]);
        }
        errors.result("codes", Cell::count(counted.errors.len() as u64));
        let mut faults = Report::new("faults", vec!["times"]);
        for (name, count) in counted.faults.iter().chain(&counted.troubles) {
            faults.row(*name, vec![Cell::count(*count)]);
        }
        faults.result("faults", Cell::count(counted.faults.values().sum()));
        vec![calls, errors, faults]
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    /// Whether the app-server was at fault in that time, or just before: of that a call that begins may still hear.
    fn felt(&self, began: Instant, ended: Instant) -> bool {
        let felt = |spell: &Spell| spell.from <= ended && spell.to.is_none_or(|to| began <= to + AFTERMATH);
        self.weather.iter().any(felt)
    }

    /// What made a call fail; `None` if nothing did that was done here.
    fn cause(&self, failure: &Failure, trouble: Option<Trouble>, call: &Call) -> Option<&'static str> {
        let code = failure.code.as_str();
        if let Some(trouble) = trouble.filter(|trouble| trouble.explains(code)) {
            return Some(trouble.name());
        }
        // One that stands still, or is replaced, in the middle of a retry takes the time that was left for it.
        let aftermath = if trouble.is_some_and(|trouble| trouble.explains_once(code)) {
            &Duration::ZERO
        } else {
            &OF_APP_SERVER.iter().find(|(known, _)| *known == code)?.1
        };
        let lost = code == LOST;
        let felt = |spell: &&Spell| {
            (spell.breaks || !lost)
                && spell.from <= call.ended
                && spell.to.is_none_or(|to| call.began <= to + *aftermath)
        };
        // A call of which nothing was told is run again, once.
        let survived = usize::from(lost && !failure.begun);
        self.weather.iter().rev().filter(felt).nth(survived).map(|spell| spell.name)
    }
}

impl Row {
    fn cells(&self) -> Vec<Cell> {
        let percentile = |percent| self.took.percentile(percent).map_or(Cell::none(), |ms| Cell::new(ms, 0));
        let counts = [self.calls, self.right, self.failed, self.left, self.wrong].map(Cell::count);
        counts.into_iter().chain([percentile(50), percentile(99)]).collect()
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.right += other.right;
        self.failed += other.failed;
        self.left += other.left;
        self.wrong += other.wrong;
    }
}
