"""The kernel that the web, the tasks and the migrations share. It imports none of them."""
