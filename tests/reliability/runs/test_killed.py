"""A run that is killed again and again, at random moments, and started again, equals one that never stopped."""

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from reliability.runs.parts import CHECKPOINT, Settings

CHAINS = 2  # at once
LONGEST = {"fake": 0.01}  # seconds from the first batch of a life to its end
BATCHES_A_LIFE = 6  # about so many, or the run would end before it was killed often enough
# Not each batch is saved, so that some are trained on again; and there is something to archive and to delete.
CHECKPOINTS = {"create_checkpoint_every": 3, "archive_last_model_checkpoint_every": 4, "keep_archived": 2}


def lived(processes, settings, name, journal, wait):
    """Starts or goes on with a run, and kills it so many seconds after its first batch: its status."""
    before = size_of(journal)
    run = processes.start(settings, name, "auto")
    until = time.monotonic() + 180
    while size_of(journal) == before and run.status(0) is None and time.monotonic() < until:
        time.sleep(0.001)
    if run.status(wait) is not None:
        return run.status()
    return run.kill()


def size_of(journal):
    return journal.stat().st_size if journal.exists() else 0


def chain(backend, processes, kind, folder, number, kills, num_epochs, background):
    """Kills one run that often, and lets it end: what is wrong with it, and how often it was killed."""
    journal, chance = folder / "journal", random.Random(number)
    checkpoints = {**CHECKPOINTS, "save_in_background": background}
    statuses = []
    for life in range(kills + 1):
        # Whatever is drawn anew, and doesn't come from the checkpoint, is another.
        seed = 1000 * (number + 1) + life if (folder / CHECKPOINT).exists() else 1
        settings = Settings(kind, seed, str(folder), num_epochs, 10**6, checkpoints, str(journal))
        wait = chance.uniform(0.0, LONGEST.get(backend, 0.05)) if life < kills else 180.0
        statuses.append(lived(processes, settings, f"life {life}", journal, wait))
    said = (folder / f"life {life}.txt").read_text()
    if statuses != [-9] * kills + [0]:
        return [f"the statuses are {statuses}; the last one said: {said}"], None, []
    outcome = json.loads((folder / f"life {life}.json").read_text())
    return [], outcome, [json.loads(line) for line in journal.read_text().splitlines()]


@pytest.mark.timeout(1800)
def test_killed_at_random_moments(backend, kind, processes_of_runs, make_whole, tmp_path, counts, pytestconfig):
    kills = -(-pytestconfig.getoption("--kills") // CHAINS)
    num_epochs = 10 + kills * BATCHES_A_LIFE // 4
    whole = make_whole(num_epochs, patience=10**6, checkpoints=CHECKPOINTS)
    folders = [tmp_path / f"chain {number}" for number in range(CHAINS)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(CHAINS) as pool:
        chains = [
            pool.submit(
                chain, backend, processes_of_runs, kind, folder, number, kills, num_epochs, background=number % 2 == 1
            )
            for number, folder in enumerate(folders)
        ]
    wrong = []
    for problems, outcome, rows in (future.result() for future in chains):
        wrong += problems
        if outcome is not None:
            wrong += [name for name in ("weights", "logs", "native") if outcome[name] != whole.outcome[name]]
            known = {str(row[:4] if row[0] == "batch" else row[:2]): row for row in whole.outcome["rows"]}
            told = {str(row[:4] if row[0] == "batch" else row[:2]): row for row in rows}
            wrong += [f"{row} is not of the whole run" for row in rows if row not in whole.outcome["rows"]]
            wrong += [f"{name} was never trained" for name in known if name not in told]
    counts[f"random kills: {backend}"] = f"{CHAINS * kills}, then {CHAINS - len(wrong)} of {CHAINS} runs equal"

    assert wrong == []
