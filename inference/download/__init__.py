"""The download of a model from a Hugging Face hub, in a child that can be killed at any moment.

`python -m inference.download ORDER FD` fetches what the order names (see `order`) and writes JSON lines to FD: first
{"total", "files", "commit", "downloaded"}, then {"downloaded", "files_done", "file"} about once a second while bytes
move, {"phase"} when something else begins, and last {"path", "format", "size_bytes", "commit", "facts"} or
{"error": code, "message": remedy, "traceback"}. The credential comes from HF_TOKEN and the cache from HF_HOME, so that
no secret is on a command line.

The hub's own client lists a repository; its file bodies are ours, because that client begins a file anew in each
process. See docs/decisions/.
"""
