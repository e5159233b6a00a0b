//! `testkit PROGRAM ARGS...`: see `programs`.

mod programs;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    programs::main()
}
