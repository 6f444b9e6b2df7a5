"""Building images from images: the Dockerfile language, build contexts, the planner, the cache, and steps in containers.

What runs a step's command and brings a base image is the engine's: `model.Runner` is the Protocol that it implements.
"""
