"""Big sampling jobs: pictures in shards, on one machine or on many, to be gone on with after a kill."""
