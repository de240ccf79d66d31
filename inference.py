from gdpo_sr.cli import run_main
from gdpo_sr.inference import main

if __name__ == "__main__":
    raise SystemExit(run_main(main))
