//! What the queue promises, without a database: tests/it/events.rs has one.

use std::sync::atomic::AtomicUsize;

use super::*;

fn segment(number: u64) -> impl FnOnce() -> Event {
    move || Event::WalSegmentBegun(FileNumber(number))
}

/// The segment numbers that a listener heard.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u64>>>);

impl Heard {
    fn hear(&self, event: &Event) {
        let Event::WalSegmentBegun(number) = event else { panic!("{event:?}") };
        self.0.lock().push(number.0);
    }

    fn listener(&self) -> Arc<dyn EventListener> {
        let heard = self.clone();
        Arc::new(move |event: &Event| heard.hear(event))
    }

    fn numbers(&self) -> Vec<u64> {
        self.0.lock().clone()
    }
}

#[test]
fn without_listeners_events_are_not_even_made() {
    let listeners = Listeners::new(Vec::new());
    listeners.note(|| panic!("nobody hears it"));
    listeners.tell();
    assert!(!listeners.is_heard());
}

#[test]
fn what_was_noted_is_told_in_order_to_all() {
    let (one, two) = (Heard::default(), Heard::default());
    let listeners = Listeners::new(vec![one.listener(), two.listener()]);
    listeners.note(segment(1));
    listeners.note(segment(2));
    assert!(one.numbers().is_empty(), "noting does not tell");
    listeners.emit(segment(3));
    assert_eq!((one.numbers(), two.numbers()), (vec![1, 2, 3], vec![1, 2, 3]));
}

#[test]
fn what_a_listener_causes_is_told_after_the_event_it_hears() {
    let heard = Heard::default();
    let listeners: Arc<std::sync::OnceLock<Arc<Listeners>>> = Arc::default();
    let (inner, back) = (heard.clone(), Arc::clone(&listeners));
    let depth = AtomicUsize::new(0);
    let listener = move |event: &Event| {
        assert_eq!(depth.fetch_add(1, Ordering::Relaxed), 0, "called within itself");
        inner.hear(event);
        if inner.numbers() == [1] {
            back.get().unwrap().emit(segment(2));
            assert_eq!(inner.numbers(), [1]);
        }
        depth.store(0, Ordering::Relaxed);
    };
    let told = listeners.get_or_init(|| Arc::new(Listeners::new(vec![Arc::new(listener)])));
    told.emit(segment(1));
    assert_eq!(heard.numbers(), [1, 2]);
    // The listener holds the listeners that hold it; ending them lets it go.
    let weak = Arc::downgrade(told);
    told.end();
    drop(listeners);
    assert!(weak.upgrade().is_none());
}

#[test]
fn a_listener_that_panics_is_let_go_and_harms_nobody() {
    let heard = Heard::default();
    let panics = Arc::new(|_: &Event| panic!("a listener's bug, on purpose"));
    let listeners = Listeners::new(vec![panics.clone(), heard.listener()]);
    listeners.emit(segment(1));
    assert_eq!(Arc::strong_count(&panics), 1);
    listeners.emit(segment(2));
    assert_eq!(heard.numbers(), [1, 2]);
    let alone = Listeners::new(vec![panics]);
    alone.emit(segment(3));
    assert!(!alone.is_heard());
}

#[test]
fn threads_that_note_at_once_lose_nothing_and_keep_their_order() {
    let heard = Heard::default();
    let listeners = Listeners::new(vec![heard.listener()]);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let listeners = &listeners;
            scope.spawn(move || {
                (0..500).for_each(|n| listeners.emit(segment(thread * 1000 + n)));
            });
        }
    });
    let numbers = heard.numbers();
    assert_eq!(numbers.len(), 2000);
    for thread in 0..4 {
        let of_thread = numbers.iter().filter(|number| **number / 1000 == thread);
        assert!(of_thread.copied().eq((0..500).map(|n| thread * 1000 + n)));
    }
}

#[test]
fn nothing_is_told_after_the_end() {
    let heard = Heard::default();
    let listener = heard.listener();
    let listeners = Listeners::new(vec![Arc::clone(&listener)]);
    listeners.note(segment(1));
    listeners.end();
    listeners.emit(segment(2));
    assert_eq!(heard.numbers(), [1]);
    assert_eq!(Arc::strong_count(&listener), 1, "the listeners were let go");
}

#[test]
fn poison_is_told_once() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let listener = Arc::new(move |_: &Event| {
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let listeners = Listeners::new(vec![listener]);
    listeners.note_poisoned(&Error::invalid("one"));
    listeners.note_poisoned(&Error::invalid("two"));
    listeners.tell();
    assert_eq!(count.load(Ordering::Relaxed), 1);
}
