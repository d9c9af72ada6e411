"""Registered nerfstudio methods: settings only, no classes."""
