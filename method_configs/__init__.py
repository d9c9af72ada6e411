"""Registered nerfstudio methods: settings only, no classes."""

from nest_nerfstudio.host import start_quickly

start_quickly()  # nerfstudio loads these while it starts
