//! `kill -9` at random moments, over and over on one database, each time with other options.
//!
//! What a killed process had acked is with the operating system, in every mode of durability but `disabled`, which the
//! shell does not have. So after a kill exactly the acked commands are there, and perhaps the one that was under way.

use std::thread;

use crate::dice::Dice;
use crate::place::Place;
use crate::pool::Suite;
use crate::reopen::{check_no_waste, read_state, verify};
use crate::shell::Shell;
use crate::trust;
use crate::workload::{State, Workload, matching_prefix, options, text};

/// How many kills one database lives through.
const KILLS_OF_ONE: u64 = 20;

#[test]
fn killed_at_random_moments() {
    let suite = Suite::new("kernel: kills");
    let kills = trust::cases(16, 200, 20_000);
    let lives = kills.div_ceil(KILLS_OF_ONE).max(2);
    suite.run_each(lives, |life| {
        let place = Place::new();
        let mut killed = Killed::new(&suite, &place, life);
        for round in 0..kills.div_ceil(lives) {
            if let Err(what) = killed.round() {
                return Err(place.keep(&format!("round {round}: {what}")));
            }
        }
        Ok(())
    });
    suite.end();
}

/// One database and what must be in it.
struct Killed<'a> {
    suite: &'a Suite,
    place: &'a Place,
    dice: Dice,
    workload: Workload,
    state: State,
}

impl<'a> Killed<'a> {
    fn new(suite: &'a Suite, place: &'a Place, life: u64) -> Self {
        let seed = trust::seed();
        let workload = Workload::new(seed, 1000 + life);
        let dice = Dice::new(seed, 2000 + life);
        Killed { suite, place, dice, workload, state: State::new() }
    }

    fn options(&mut self) -> Vec<String> {
        let background_threads = self.dice.pick(&[0, 1, 2, 2]);
        options(&mut self.dice, background_threads)
    }

    fn round(&mut self) -> Result<(), String> {
        let options = self.options();
        let count = 10 + self.dice.below(400);
        self.workload.upkeep_per_mille = self.dice.pick(&[0, 10, 100]);
        self.workload.sync_percent = self.dice.pick(&[0, 20, 100]);
        let ops = self.workload.ops(count);
        let mut shell = Shell::on(&self.place.db(), &options);
        // An input that ends lets some kills hit the close.
        shell.feed(text(&ops), self.dice.chance(30));
        let mut acked = 0;
        for _ in 0..self.dice.below(count + 1) {
            let Some(answer) = shell.read() else { break };
            acked += is_ok(&answer)?;
        }
        thread::sleep(self.dice.delay(8000));
        let ended = shell.kill();
        for answer in &ended.answers {
            acked += is_ok(answer)?;
        }
        if ended.signal.is_none() {
            ended.clean()?;
            self.suite.add("too_late", 1);
        }
        self.suite.count_case();
        self.suite.add("acked", acked as u64);
        self.kill_recoveries()?;
        let options = self.options();
        let found = read_state(&self.place.db(), &options, &mut self.dice)?;
        matching_prefix(&self.state, &ops, (acked, acked + 1), &found)?;
        self.state = found;
        if self.dice.chance(30) {
            verify(&self.place.db())?;
            check_no_waste(&self.place.db())?;
        }
        Ok(())
    }

    /// Sometimes the process that recovers is killed as well.
    fn kill_recoveries(&mut self) -> Result<(), String> {
        while self.dice.chance(25) {
            let options = self.options();
            let shell = Shell::on(&self.place.db(), &options);
            thread::sleep(self.dice.delay(15_000));
            let ended = shell.kill();
            if ended.signal.is_none() {
                return Err(format!("it does not open: {}", ended.told()));
            }
            self.suite.count_case();
            self.suite.add("in_recovery", 1);
        }
        Ok(())
    }
}

/// 1 for an ack; nothing but a kill went wrong, so anything else is wrong.
fn is_ok(answer: &str) -> Result<usize, String> {
    if answer == "ok" { Ok(1) } else { Err(format!("a command answered {answer:?}")) }
}
