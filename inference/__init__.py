"""Engines: one loaded model each, behind one small protocol, in a process that can always be ended.

This package knows no web, no queue and no database. `protocol` has the nouns, `remote.RemoteEngine.load` the door.
"""
