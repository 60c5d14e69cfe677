"""Will it run, how long will it take, and what will it cost: reckoned before a run starts, without loading anything."""
