use super::*;
use crate::options::Compaction;

fn simulator(options: KeyspaceOptions, workload: &Workload) -> Simulator {
    Simulator::new(options, workload, Machine::default()).unwrap()
}

#[test]
#[ignore = "prints"]
#[expect(clippy::print_stdout, reason = "it is run by hand, for what it prints")]
fn look() {
    for (mem, n, k) in [(8u64 << 20, 10_000_000u64, 5_000_000u64), (64 << 20, 17_000_000, 17_000_000)] {
        for name in Compaction::BUILT_IN {
            let options = KeyspaceOptions { memtable_bytes: mem, ..Default::default() }
                .compaction(Compaction::from_name(name));
            let mut sim = simulator(options, &Workload::uniform(k));
            if name == &"leveled" {
                println!("{:?} {}", sim.clockwork.tree.costs, sim.clockwork.memtable_writes_max());
            }
            sim.write(n).unwrap();
            sim.settle().unwrap();
            println!("{}", sim.report());
        }
    }
}
